//! Whether a call ended as it may have: with what is true of the tables, or with an error that its change explains.

use std::collections::HashMap;

use magic_link_harness::Database;
use magic_link_harness::postgres::Client;
use uuid::Uuid;

use crate::ddl::{Case, Played, Setting};
use crate::ddl_calls::{Answer, Call, Caller, Fixture, Token};
use crate::ddl_changes::Kind::*;
use crate::ddl_changes::ONE_TIME_TOKENS;

/// The tables that have the names before the change, by their oids.
pub struct Originals {
    users: u32,
    tokens: u32,
}

impl Originals {
    pub fn of(database: &Database) -> Self {
        let oid = |table| {
            let query = format!("SELECT 'magic_link.{table}'::regclass::oid");
            database.value(&query, &[])
        };
        Self {
            users: oid("users"),
            tokens: oid("one_time_tokens"),
        }
    }
}

/// What is in the tables when all calls are through.
pub struct Facts {
    /// What has the names now.
    named: Tables,
    /// What had them before, wherever it is.
    original: Tables,
}

/// Empty where there is no such table, or it cannot be read.
#[derive(Default)]
struct Tables {
    users: HashMap<String, Vec<String>>,
    tokens: HashMap<Uuid, Row>,
}

struct Row {
    email: String,
    consumed_by: Option<String>,
    revoked: bool,
    failed_attempts: i32,
}

impl Row {
    fn is_active(&self, email: &str) -> bool {
        self.email == email && self.consumed_by.is_none() && !self.revoked
    }
}

impl Facts {
    pub fn read(database: &Database, before: &Originals) -> Self {
        let mut superuser = database.superuser();
        let named = Tables {
            users: users(&mut superuser, Some("magic_link.users".to_owned())),
            tokens: tokens(
                &mut superuser,
                Some("magic_link.one_time_tokens".to_owned()),
            ),
        };
        let name = |superuser: &mut Client, oid: u32| {
            let query = "SELECT oid::regclass::text FROM pg_class WHERE oid = $1";
            let row = superuser.query_opt(query, &[&oid]).expect("no catalogue");
            row.map(|row| row.get::<_, String>(0))
        };
        let (of_users, of_tokens) = (
            name(&mut superuser, before.users),
            name(&mut superuser, before.tokens),
        );
        let original = Tables {
            users: users(&mut superuser, of_users),
            tokens: tokens(&mut superuser, of_tokens),
        };
        Self { named, original }
    }
}

fn users(superuser: &mut Client, table: Option<String>) -> HashMap<String, Vec<String>> {
    let mut users: HashMap<String, Vec<String>> = HashMap::new();
    let rows =
        table.map(|table| superuser.query(&format!("SELECT email, id::text FROM {table}"), &[]));
    for row in rows.and_then(Result::ok).unwrap_or_default() {
        users.entry(row.get(0)).or_default().push(row.get(1));
    }
    users
}

fn tokens(superuser: &mut Client, table: Option<String>) -> HashMap<Uuid, Row> {
    let columns = "id, email, consumed_by, revoked_at IS NOT NULL, failed_attempts";
    let rows = table.map(|table| superuser.query(&format!("SELECT {columns} FROM {table}"), &[]));
    let rows = rows.and_then(Result::ok).unwrap_or_default();
    let row = |row: &magic_link_harness::postgres::Row| {
        (
            row.get(0),
            Row {
                email: row.get(1),
                consumed_by: row.get(2),
                revoked: row.get(3),
                failed_attempts: row.get(4),
            },
        )
    };
    rows.iter().map(row).collect()
}

/// What is wrong with the two calls of a caller.
pub fn complaint(case: &Case, fixture: &Fixture, played: &Played, facts: &Facts) -> Vec<String> {
    let caller = played.caller;
    let [first, second] = fixture.tokens(caller);
    let places = match case.change.kind {
        _ if played.ended_before => vec![&facts.original],
        // What was written before the wait is in the tables that were there.
        SchemaReplace => vec![&facts.named, &facts.original],
        _ => vec![&facts.named],
    };
    let met = judge(case, caller, first, &played.met, &places, Moment::Met);
    let later = judge(
        case,
        caller,
        second,
        &played.later,
        &[&facts.named],
        Moment::Later,
    );
    let say = |when, wrong| {
        format!(
            "{:?} {:?} {when} (ended before: {}): {wrong}",
            caller.call, caller.session, played.ended_before
        )
    };
    let met = met.map(|wrong| say("meeting the change", wrong));
    let later = later.map(|wrong| say("afterwards", wrong));
    met.into_iter().chain(later).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    Met,
    Later,
}

fn judge(
    case: &Case,
    caller: Caller,
    token: &Token,
    answer: &Result<Answer, String>,
    places: &[&Tables],
    moment: Moment,
) -> Option<String> {
    if let Some(code) = refusal(caller, answer) {
        let used = caller.call == Call::RedeemAgain && case.setting != Setting::Replay;
        let allowed = allowed(case, caller, moment);
        let known = used && code == "OT003" || allowed.contains(&code);
        return (!known).then(|| format!("{answer:?}, where only {allowed:?} may be"));
    }
    let answer = answer.as_ref().ok()?;
    let lost = case.commits && case.change.loses_rows();
    let mut places = places.iter();
    let is_so = places.any(|tables| is_so(caller, token, answer, tables, lost));
    (!is_so).then(|| format!("{answer:?} of {} is not so", caller.email()))
}

/// The SQLSTATE of a call that was refused, whichever way it says so.
fn refusal(caller: Caller, answer: &Result<Answer, String>) -> Option<&str> {
    let outcome = match answer {
        Err(error) => return error.split(' ').next(),
        Ok(Answer::Outcome(outcome)) => outcome.as_str(),
        Ok(_) => return None,
    };
    match outcome {
        "ok" => None,
        "email_mismatch" if caller.call == Call::TryRedeemWrong => None,
        "token_not_found" => Some("OT001"),
        "token_consumed" => Some("OT003"),
        "user_not_found" => Some("OT007"),
        other => Some(other),
    }
}

/// Whether the tables say the same; `lost` where the token may be gone.
fn is_so(caller: Caller, token: &Token, answer: &Answer, tables: &Tables, lost: bool) -> bool {
    let email = caller.email();
    let row = tables.tokens.get(&token.id);
    match answer {
        Answer::Count(0) | Answer::Deleted(false) if lost && row.is_none() => true,
        Answer::Issued(issued) => issued
            .iter()
            .all(|(id, email)| tables.tokens.get(id).is_some_and(|row| row.email == *email)),
        Answer::Redeemed(redeemed) => {
            let of_address = tables.users.get(&email);
            of_address.is_some_and(|ids| *ids == [redeemed.user_id.clone()])
                && redeemed.email == email
                && redeemed.token_id == token.id
                && redeemed.replayed == (caller.call == Call::RedeemAgain)
                && row.is_some_and(|row| row.consumed_by.as_ref() == Some(&redeemed.user_id))
        }
        Answer::Outcome(outcome) if outcome == "email_mismatch" => {
            row.is_some_and(|row| row.failed_attempts == 1)
        }
        Answer::Outcome(_) => {
            let has_user = caller.call != Call::CheckSignIn || tables.users.contains_key(&email);
            has_user && row.is_some_and(|row| row.is_active(&email))
        }
        Answer::Decision(decision) => {
            decision == "redeem" && row.is_some_and(|row| row.is_active(&email))
        }
        Answer::Status(status) => status == "revoked" && row.is_some_and(|row| row.revoked),
        Answer::Count(_) if caller.call == Call::Purge => true,
        Answer::Count(_) => row.is_some_and(|row| row.revoked),
        Answer::Deleted(deleted) => *deleted && row.is_none(),
    }
}

/// What a call may be refused with, because of the change alone.
fn allowed(case: &Case, caller: Caller, moment: Moment) -> Vec<&'static str> {
    let mut allowed = vec![];
    let older = caller.session.has_snapshot() && moment == Moment::Met;
    // Several of them purge the same rows.
    if older && caller.call == Call::Purge {
        allowed.push("40001");
    }
    if !case.commits {
        return allowed;
    }
    let change = &case.change;
    if older && change.writes_rows_anew() {
        // The rows are not those that the snapshot sees.
        allowed.push("40001");
        allowed.extend_from_slice(without_rows(&change.table, caller.call));
    }
    if change.takes_an_arbiter() {
        allowed.push("42P10");
    }
    let later = moment == Moment::Later;
    allowed.extend_from_slice(match change.kind {
        Rename | SetSchema => &["42P01"],
        // The foreign keys lead to the table that was replaced.
        Swap | SwapWithNames | SwapFromSchema if caller.call.makes_members() => &["23503"],
        RenameColumn | DropColumn => &["42809", "42703", "42P10", "42P13"],
        // It reads a column that only tables have.
        ViewInPlace if caller.call == Call::Purge => &["42703"],
        ViewInPlace | PartitionedInPlace => &["42809", "42P10"],
        Truncate => without_rows(&change.table, caller.call),
        // The function itself is looked up by its name.
        SchemaRename | ExtensionDrop if later => &["3F000"],
        SchemaRename | ExtensionDrop => &["42P01", "3F000"],
        SchemaReplace | ExtensionDropAndCreate if later => &["42501"],
        // The view is in the schema that was replaced.
        SchemaReplace if caller.call == Call::Decide => &["42P01"],
        // Of what it wrote before it waited, the tables that have the names now have nothing.
        SchemaReplace if older => &["27000", "OT001", "OT007", "23503"],
        ExtensionDropAndCreate => &["OT001", "23503", "02000"],
        _ => &[],
    });
    allowed
}

/// What a call is refused with where it sees no rows in a table.
fn without_rows(table: &str, call: Call) -> &'static [&'static str] {
    match (table, call) {
        (ONE_TIME_TOKENS, Call::Revoke) => &["02000"],
        (ONE_TIME_TOKENS, _) => &["OT001"],
        // Who had the token is gone, and so is the first answer.
        ("users", Call::RedeemAgain) => &["OT003"],
        ("users", Call::CheckSignIn | Call::TryRedeemSignIn) => &["OT007"],
        ("organizations" | "organization_roles", Call::Create | Call::CreateAll) => &["23503"],
        _ => &[],
    }
}

/// What is broken in tables and indexes, ours and those that took their places or lost them.
pub fn damage(database: &Database) -> Vec<String> {
    let mut superuser = database.superuser();
    let mut wrong = vec![];
    let relations = |superuser: &mut Client, kind: &str| -> Vec<String> {
        let query = "
            SELECT c.oid::regclass::text
              FROM pg_class AS c LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
             WHERE c.relkind::text = $1 AND c.relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
               AND coalesce(i.indisvalid, true) AND (c.relkind <> 'i' OR c.relam = 403)";
        let rows = superuser.query(query, &[&kind]).expect("no catalogue");
        rows.iter().map(|row| row.get(0)).collect()
    };
    for index in relations(&mut superuser, "i") {
        let check = format!("SELECT bt_index_check('{index}', true)");
        if let Err(error) = superuser.query_one(&check, &[]) {
            wrong.push(format!("{index} is damaged: {error:?}"));
        }
    }
    for table in relations(&mut superuser, "r") {
        let check = format!("SELECT msg FROM verify_heapam('{table}')");
        match superuser.query(&check, &[]) {
            Ok(rows) => wrong.extend(
                rows.iter()
                    .map(|row| format!("{table}: {}", row.get::<_, String>(0))),
            ),
            Err(error) => wrong.push(format!("{table} is damaged: {error:?}")),
        }
    }
    wrong.extend(twice(&mut superuser));
    wrong
}

/// Addresses that more than one user has, whatever an index says.
fn twice(superuser: &mut Client) -> Vec<String> {
    superuser
        .batch_execute("SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off")
        .expect("settings of PostgreSQL's");
    let query = "SELECT email FROM magic_link.users GROUP BY 1 HAVING count(*) > 1";
    // Where there is no such table, nobody is there twice.
    let rows = superuser.query(query, &[]).unwrap_or_default();
    rows.iter()
        .map(|row| format!("{} is there twice", row.get::<_, String>(0)))
        .collect()
}
