//! Hostile values into every argument of every function, by every kind of role: each is answered or refused as it says, the server
//! goes on, its rows stay sound, and its memory does not grow.

use std::collections::{BTreeMap, HashSet};
use std::error::Error as StdError;
use std::{fmt, fs};

use magic_link_harness::postgres::types::private::BytesMut;
use magic_link_harness::postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use magic_link_harness::postgres::{Client, Statement};
use magic_link_harness::{Calls, Cluster, Database, process_id};
use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand::seq::IndexedRandom;

use crate::actions::generator;
use crate::hostile_values::{Known, value};
use crate::run::Run;

/// Calls between two looks at what is there: some of them delete it.
const ROUND: usize = 100;

/// Between the least that a session had in each half of a run. tools/torture has what is large given back at once, so little comes and
/// goes; 80 bytes lost by each call would be more, over 100,000 calls by four sessions.
const MAX_GROWTH: u64 = 2 << 20;

/// What the casts of the values say before any function of ours is reached.
const NO_SUCH_VALUE: &[&str] = &[
    "22003", "22007", "22008", "22015", "22021", "22P02", "22P05", "2202E", "42602", "42704",
    "54000", "54001",
];

/// Stand for what a token, known for this call, has.
const TOKEN: &str = "its token";
const EMAIL: &str = "its address";
const ID: &str = "its id";
const ROW: &str = "a row";

/// Of each function its name, arguments that are good, and what it says of others, where it may be called at all. One without a
/// line here fails the suite.
#[rustfmt::skip]
const FUNCTIONS: &[(&str, &[&str], &[&str])] = &[
    ("normalize_email", &[EMAIL], &["22004", "22023"]),
    ("one_time_token_id", &[TOKEN], &["22004", "22023"]),
    ("compose_magic_link", &["https://app.example.com/", TOKEN, EMAIL, "{}", "token", "email"], &["22004", "22023"]),
    ("create_one_time_token", &[EMAIL, "600", "{}"], &["22004", "22023", "23503"]),
    ("create_one_time_tokens", &["{ada@example.com,eve@example.com}", "600", "{}"], &["22004", "22023", "23503"]),
    ("redeem_one_time_token", &[TOKEN, EMAIL, "Register"], &["22004", "22023", "OT001", "OT002", "OT003", "OT004", "OT005", "OT006", "OT007"]),
    ("try_redeem_one_time_token", &[TOKEN, EMAIL, "Register"], &["22004", "22023"]),
    ("check_one_time_token", &[TOKEN, EMAIL, "Register"], &["22004", "22023"]),
    ("session_switch_decision", &[TOKEN, EMAIL, "eve@example.com", "login"], &["22004", "22023"]),
    ("revoke_one_time_token", &[ID], &["02000", "22004"]),
    ("revoke_one_time_tokens", &[EMAIL, "Register"], &["22004", "22023"]),
    ("delete_one_time_token", &[ID], &["22004"]),
    ("purge_one_time_tokens", &["30 days", "1000"], &["22004", "22023"]),
    // Of a hash that is no bytea, in the cast.
    ("one_time_token_is_sound", &[ROW], &["22004", "22023"]),
    // A superuser's own, which puts words into a statement.
    ("change_privileges", &["victim", "backend", "GRANT %s TO %s"], &["22004", "22023", "42601"]),
    ("grant_backend", &["victim"], &["22004"]),
    ("revoke_backend", &["victim"], &["22004"]),
    ("grant_admin", &["victim"], &["22004"]),
    ("revoke_admin", &["victim"], &["22004"]),
];

const FORBIDDEN: &str = "42501";

/// A text that need be none.
struct Bytes(Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

impl ToSql for Bytes {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TEXT
    }

    to_sql_checked!();
}

struct Function {
    name: String,
    kinds: Vec<String>,
    good: &'static [&'static str],
    refusals: &'static [&'static str],
}

impl Function {
    fn all(database: &Database) -> Vec<Self> {
        let query = "
            SELECT proname::text, ARRAY(SELECT pg_catalog.format_type(t, NULL) FROM unnest(proargtypes) AS t)
              FROM pg_proc WHERE pronamespace = 'magic_link'::regnamespace ORDER BY 1";
        let rows = database
            .superuser()
            .query(query, &[])
            .expect("no catalogue");
        let function = |name: String, kinds| {
            let known = FUNCTIONS.iter().find(|(function, ..)| *function == name);
            let (_, good, refusals) =
                known.unwrap_or_else(|| panic!("hostile.rs has no line for {name}"));
            Self {
                name,
                kinds,
                good,
                refusals,
            }
        };
        rows.iter()
            .map(|row| function(row.get(0), row.get(1)))
            .collect()
    }

    fn call(&self) -> String {
        let arguments: Vec<String> = (1..)
            .zip(&self.kinds)
            .map(|(n, kind)| format!("${n}::text::{kind}"))
            .collect();
        format!(
            "SELECT * FROM magic_link.{}({})",
            self.name,
            arguments.join(", ")
        )
    }
}

/// A session of one of the roles, with its calls prepared.
struct Caller {
    role: &'static str,
    client: Client,
    statements: Vec<Statement>,
}

impl Caller {
    fn new(role: &'static str, mut client: Client, functions: &[Function]) -> Self {
        let prepare = |function: &Function| {
            client
                .prepare(&function.call())
                .expect("a function that is there")
        };
        let statements = functions.iter().map(prepare).collect();
        Self {
            role,
            client,
            statements,
        }
    }

    /// Its own memory, without what it shares.
    fn memory(&mut self) -> u64 {
        let process = process_id(&mut self.client);
        let status =
            fs::read_to_string(format!("/proc/{process}/status")).expect("a server process");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .expect("a line of its own memory");
        let kilobytes: u64 = line
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("kilobytes");
        kilobytes * 1024
    }
}

/// How the calls of each function ended, by SQLSTATE.
pub type Ends = BTreeMap<(String, String), u64>;

pub struct Hostile<'a> {
    database: &'a Database<'a>,
    functions: Vec<Function>,
    callers: Vec<Caller>,
    known: Known,
    /// All that were ever known.
    tokens: HashSet<String>,
    random: ChaCha8Rng,
    seed: u64,
    started: String,
    pub ends: Ends,
    pub calls: u64,
}

pub fn hostile(run: &Run) -> String {
    let cluster = Cluster::start(&[]);
    let database = Database::of(&cluster);
    let mut hostile = Hostile::new(&database, run.seed);
    let mut memory = vec![];
    while run.goes_on() {
        hostile.play(50 * ROUND);
        memory.push(hostile.memory());
        run.progress(&hostile.line());
    }
    hostile.assert_nothing_broke();
    if memory.len() < 5 {
        return format!("{}, too few to compare memory", hostile.line());
    }
    let grown = growth(&memory);
    assert!(grown <= MAX_GROWTH, "SEED={}: {memory:?}", run.seed);
    format!(
        "{}, {} KiB more memory in a session",
        hostile.line(),
        grown >> 10
    )
}

/// By how much the least that a session had is more in the second half; the first look is at sessions that have not seen all yet.
fn growth(memory: &[Vec<u64>]) -> u64 {
    let [sessions, memory @ ..] = memory else {
        return 0;
    };
    let (first, second) = memory.split_at(memory.len() / 2);
    let least = |half: &[Vec<u64>], session: usize| half.iter().map(|looked| looked[session]).min();
    (0..sessions.len())
        .filter_map(|session| Some(least(second, session)?.saturating_sub(least(first, session)?)))
        .max()
        .unwrap_or_default()
}

impl Known {
    /// An argument of FUNCTIONS, for a token that is there.
    fn good(&self, argument: &str, which: usize) -> String {
        let known = match argument {
            TOKEN => self.tokens.get(which),
            EMAIL => self.emails.get(which),
            ID => self.ids.get(which),
            ROW => self.rows.first(),
            _ => None,
        };
        known.cloned().unwrap_or_else(|| argument.to_owned())
    }
}

impl<'a> Hostile<'a> {
    pub fn new(database: &'a Database<'a>, seed: u64) -> Self {
        database.organization("acme", &["member"]);
        let ungranted = database.role("ungranted", "LOGIN");
        // Who may not even look into the schema gets no further than that.
        database.sql(&format!("GRANT USAGE ON SCHEMA magic_link TO {ungranted}"));
        database.sql("CREATE ROLE victim; CREATE ROLE \"Victim's \\ \"\"role\"\"\"");
        let functions = Function::all(database);
        let callers = [
            ("superuser", database.superuser()),
            ("backend", database.backend()),
            ("admin", database.admin()),
            ("ungranted", database.connect_as(&ungranted)),
        ];
        let callers = callers
            .map(|(role, client)| Caller::new(role, client, &functions))
            .into();
        Self {
            database,
            functions,
            callers,
            known: Known::default(),
            tokens: HashSet::new(),
            random: generator(seed, 0, 0),
            seed,
            started: started(database),
            ends: Ends::new(),
            calls: 0,
        }
    }

    pub fn line(&self) -> String {
        let answered: u64 = self
            .ends
            .iter()
            .filter(|((_, end), _)| end == "answered")
            .map(|(_, count)| count)
            .sum();
        format!("{} calls, {answered} answered", self.calls)
    }

    /// So many calls, with tokens that are good among their values.
    pub fn play(&mut self, calls: usize) {
        for number in 0..calls {
            if number % ROUND == 0 {
                self.learn();
            }
            self.call();
        }
    }

    fn learn(&mut self) {
        let mut backend = self.database.backend();
        let mut known = Known::default();
        for number in 0..5 {
            let email = format!("{number}@example.com");
            let context = *[
                r#"{"jitOrganizationIds": ["acme"]}"#,
                "{}",
                r#"{"interactionEvent": "SignIn"}"#,
            ]
            .choose(&mut self.random)
            .unwrap_or(&"{}");
            let issued = backend.create(&email, context).expect("a good token");
            self.tokens.insert(issued.token.clone());
            known.tokens.push(issued.token);
            known.emails.push(email);
            known.ids.push(issued.id.to_string());
        }
        let rows =
            "SELECT t::text FROM magic_link.one_time_tokens AS t ORDER BY created_at DESC LIMIT 20";
        let rows = self
            .database
            .superuser()
            .query(rows, &[])
            .expect("no rows of one_time_tokens");
        known.rows = rows.iter().map(|row| row.get(0)).collect();
        self.known = known;
    }

    fn call(&mut self) {
        let which = self.random.random_range(0..self.functions.len());
        let who = self.random.random_range(0..self.callers.len());
        let (function, caller) = (&self.functions[which], &mut self.callers[who]);
        // What makes a statement of its words has them in its errors: nobody's tokens there.
        let none = Known::default();
        let makes_statements = function.name == "change_privileges";
        let known = if makes_statements { &none } else { &self.known };
        let which_token = self.random.random_range(0..self.known.tokens.len());
        let arguments = function.kinds.iter().zip(function.good);
        let values: Vec<Option<Bytes>> = arguments
            .map(|(kind, good)| match self.random.random_ratio(1, 2) {
                true => value(kind, known, &mut self.random),
                false => Some(self.known.good(good, which_token).into()),
            })
            .map(|bytes| bytes.map(Bytes))
            .collect();
        let parameters: Vec<&(dyn ToSql + Sync)> = values
            .iter()
            .map(|value| value as &(dyn ToSql + Sync))
            .collect();
        let end = match caller.client.query(&caller.statements[which], &parameters) {
            Ok(rows) => {
                let tokens = rows.iter().filter_map(|row| row.try_get("token").ok());
                self.tokens.extend(tokens);
                "answered".to_owned()
            }
            Err(error) => match error.code() {
                Some(code) => code.code().to_owned(),
                None => format!("{error:?}"),
            },
        };
        let expected = [NO_SUCH_VALUE, function.refusals, &["answered", FORBIDDEN]].concat();
        assert!(
            expected.contains(&end.as_str()),
            "SEED={}, call {}: {end} from magic_link.{} by {} of {values:?}",
            self.seed,
            self.calls,
            function.name,
            caller.role
        );
        *self.ends.entry((function.name.clone(), end)).or_default() += 1;
        self.calls += 1;
    }

    /// Of each session.
    fn memory(&mut self) -> Vec<u64> {
        self.callers.iter_mut().map(Caller::memory).collect()
    }

    pub fn assert_nothing_broke(&mut self) {
        assert_eq!(
            started(self.database),
            self.started,
            "SEED={}: the server began anew",
            self.seed
        );
        let broken = broken_constraints(self.database);
        assert!(broken.is_empty(), "SEED={}: {broken:?}", self.seed);
        let log = self.database.cluster().log();
        let mut words = log.split(|c: char| !c.is_ascii_alphanumeric());
        let told = words.any(|word| self.tokens.contains(word));
        assert!(!told, "SEED={}: a token is in the log", self.seed);
        assert!(
            !log.contains("PANIC") && !log.contains("TRAP:"),
            "SEED={}: see the log",
            self.seed
        );
    }
}

fn started(database: &Database) -> String {
    database.value("SELECT pg_postmaster_start_time()::text", &[])
}

/// The constraints of our tables that do not hold for all rows, when they are asked again.
fn broken_constraints(database: &Database) -> Vec<String> {
    let query = "
        SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid)
          FROM pg_constraint
         WHERE connamespace = 'magic_link'::regnamespace AND contype IN ('c', 'f') ORDER BY 1, 2";
    let mut superuser = database.superuser();
    let rows = superuser.query(query, &[]).expect("no catalogue");
    assert!(rows.len() > 10, "the tables have constraints");
    let again = |row: &magic_link_harness::postgres::Row| {
        let (table, name, definition): (String, String, String) =
            (row.get(0), row.get(1), row.get(2));
        let again = superuser.batch_execute(&format!(
            "ALTER TABLE {table} ADD CONSTRAINT again {definition} NOT VALID;
             ALTER TABLE {table} VALIDATE CONSTRAINT again;
             ALTER TABLE {table} DROP CONSTRAINT again"
        ));
        again
            .err()
            .map(|error| format!("{table} {name}: {error:?}"))
    };
    rows.iter().filter_map(again).collect()
}
