//! The calls that meet a change of a table, each in sessions of its own, and the tokens and users that they are about.

use std::collections::HashMap;

use magic_link_harness::postgres::{Client, Error};
use magic_link_harness::{Calls, Cluster, Database, Redeemed};
use uuid::Uuid;

/// What a token is issued for.
const NOTHING: &str = "{}";
const JOIN: &str =
    r#"{"jitOrganizationIds": ["acme", "globex"], "organizationRoleIds": {"globex": ["viewer"]}}"#;
const SIGN_IN: &str = r#"{"interactionEvent": "SignIn"}"#;

/// Of this domain: who is created with such an address joins another organization.
const DOMAIN: &str = "joined.example";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    Create,
    CreateAll,
    /// A known user, who joins organizations.
    Redeem,
    /// A known user, who joins nothing.
    RedeemPlain,
    /// An address that nobody has.
    RedeemNew,
    /// A token that was redeemed.
    RedeemAgain,
    TryRedeem,
    TryRedeemNew,
    TryRedeemWrong,
    TryRedeemSignIn,
    Check,
    CheckSignIn,
    Decide,
    Revoke,
    RevokeAll,
    Delete,
    Purge,
}

impl Call {
    pub const ALL: [Self; 17] = [
        Self::Create,
        Self::CreateAll,
        Self::Redeem,
        Self::RedeemPlain,
        Self::RedeemNew,
        Self::RedeemAgain,
        Self::TryRedeem,
        Self::TryRedeemNew,
        Self::TryRedeemWrong,
        Self::TryRedeemSignIn,
        Self::Check,
        Self::CheckSignIn,
        Self::Decide,
        Self::Revoke,
        Self::RevokeAll,
        Self::Delete,
        Self::Purge,
    ];

    fn function(self) -> &'static str {
        match self {
            Self::Create => "create_one_time_token",
            Self::CreateAll => "create_one_time_tokens",
            Self::Redeem | Self::RedeemPlain | Self::RedeemNew | Self::RedeemAgain => {
                "redeem_one_time_token"
            }
            Self::TryRedeem | Self::TryRedeemNew | Self::TryRedeemWrong | Self::TryRedeemSignIn => {
                "try_redeem_one_time_token"
            }
            Self::Check | Self::CheckSignIn => "check_one_time_token",
            Self::Decide => "session_switch_decision",
            Self::Revoke => "revoke_one_time_token",
            Self::RevokeAll => "revoke_one_time_tokens",
            Self::Delete => "delete_one_time_token",
            Self::Purge => "purge_one_time_tokens",
        }
    }

    fn context(self) -> &'static str {
        match self {
            Self::Create
            | Self::CreateAll
            | Self::Redeem
            | Self::RedeemNew
            | Self::TryRedeem
            | Self::TryRedeemNew => JOIN,
            Self::TryRedeemSignIn | Self::CheckSignIn => SIGN_IN,
            _ => NOTHING,
        }
    }

    fn has_user(self) -> bool {
        !matches!(self, Self::RedeemNew | Self::TryRedeemNew)
    }

    pub fn makes_members(self) -> bool {
        self.context() == JOIN && !matches!(self, Self::Create | Self::CreateAll)
    }
}

/// Functions that read no table of ours, or are there for a superuser to change privileges with.
const OTHER_FUNCTIONS: [&str; 9] = [
    "change_privileges",
    "compose_magic_link",
    "grant_admin",
    "grant_backend",
    "normalize_email",
    "one_time_token_id",
    "one_time_token_is_sound",
    "revoke_admin",
    "revoke_backend",
];

/// Fails where the catalogue has a function that nobody calls here.
pub fn assert_all_functions_are_called(database: &Database) {
    let query = "SELECT array_agg(proname::text) FROM pg_proc WHERE pronamespace = 'magic_link'::regnamespace";
    let functions: Vec<String> = database.value(query, &[]);
    for function in functions {
        let is_called = Call::ALL.iter().any(|call| call.function() == function);
        assert!(
            is_called || OTHER_FUNCTIONS.contains(&function.as_str()),
            "ddl_calls.rs has no call of magic_link.{function}"
        );
    }
}

/// How a session comes to its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Session {
    /// It has called every function before.
    Warm,
    /// It is its first call.
    Cold,
    /// In a transaction that sees all as it was before the change; `warm` as above.
    Snapshot { warm: bool },
}

impl Session {
    pub const ALL: [Self; 4] = [
        Self::Warm,
        Self::Cold,
        Self::Snapshot { warm: true },
        Self::Snapshot { warm: false },
    ];

    pub fn is_warm(self) -> bool {
        matches!(self, Self::Warm | Self::Snapshot { warm: true })
    }

    pub fn has_snapshot(self) -> bool {
        matches!(self, Self::Snapshot { .. })
    }
}

/// A session and its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller {
    pub call: Call,
    pub session: Session,
}

impl Caller {
    pub fn all() -> impl Iterator<Item = Self> {
        let sessions = |call| Session::ALL.map(|session| Self { call, session });
        Call::ALL.into_iter().flat_map(sessions)
    }

    pub fn email(self) -> String {
        let Self { call, session } = self;
        let name = format!("{call:?}-{session:?}");
        let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        format!("{}@{DOMAIN}", name.to_lowercase())
    }
}

/// A token that is presented.
#[derive(Debug, Clone)]
pub struct Token {
    pub id: Uuid,
    pub secret: String,
}

/// What a call answered.
#[derive(Debug)]
pub enum Answer {
    Issued(Vec<(Uuid, String)>),
    Redeemed(Box<Redeemed>),
    /// Of a check, or of a redemption that was refused.
    Outcome(String),
    Decision(String),
    Status(String),
    Count(i64),
    Deleted(bool),
}

/// A database that the rounds are copied from, and what is in it.
pub struct Fixture {
    pub database: String,
    /// Who calls.
    pub role: String,
    tokens: HashMap<Caller, [Token; 2]>,
}

impl Fixture {
    /// Each table begins with rows that are dead, and has more between the others: a look by another table's index finds them,
    /// or somebody else's.
    pub fn make(cluster: &Cluster) -> Self {
        let database = Database::of(cluster);
        assert_all_functions_are_called(&database);
        let role = database.backend_role();
        database.sql(&format!(
            "CREATE EXTENSION amcheck; SELECT magic_link.grant_admin('{role}')"
        ));
        make_tablespace(&database);
        fill_directory(&database);
        let tokens = issue_all(&database);
        fill_ledger(&database);
        Self {
            database: database.name().to_owned(),
            role,
            tokens,
        }
    }

    pub fn tokens(&self, caller: Caller) -> &[Token; 2] {
        &self.tokens[&caller]
    }
}

/// Within the server's own folder, with which it goes.
fn make_tablespace(database: &Database) {
    let mut superuser = database.superuser();
    for statement in [
        "SET allow_in_place_tablespaces = on",
        "CREATE TABLESPACE elsewhere LOCATION ''",
    ] {
        superuser.batch_execute(statement).expect("no tablespace");
    }
}

fn fill_directory(database: &Database) {
    let users: Vec<String> = Caller::all()
        .filter(|caller| caller.call.has_user())
        .map(Caller::email)
        .collect();
    database
        .superuser()
        .execute(
            "INSERT INTO magic_link.users (email)
             SELECT n.email FROM unnest($1::text[]) WITH ORDINALITY AS u (email, place)
              CROSS JOIN LATERAL (VALUES (1, 'gone-' || place || '@example.com'), (2, email)) AS n (turn, email)
              ORDER BY place, turn",
            &[&users],
        )
        .expect("no users");
    database.sql(&format!(
        "INSERT INTO magic_link.organizations (id, name)
         SELECT n, n FROM unnest('{{gone-a,gone-b,acme,gone-c,globex,gone-d,initech,other}}'::text[]) AS n;
         INSERT INTO magic_link.organization_roles (id, name)
         SELECT n, n FROM unnest('{{gone-a,gone-b,member,gone-c,viewer,gone-d,other}}'::text[]) AS n;
         INSERT INTO magic_link.organization_jit_roles
         SELECT o, r FROM unnest('{{gone-a,acme,gone-b,globex,initech,other}}'::text[]) AS o, unnest('{{gone-a,member}}'::text[]) AS r;
         INSERT INTO magic_link.organization_jit_email_domains
         VALUES ('gone-a', '{DOMAIN}'), ('gone-b', 'other.example'), ('initech', '{DOMAIN}'), ('other', 'other.example');
         INSERT INTO magic_link.organization_memberships (organization_id, user_id)
         SELECT o, u.id FROM magic_link.users AS u, unnest('{{gone-a,other}}'::text[]) AS o;
         INSERT INTO magic_link.organization_membership_roles
         SELECT 'other', u.id, r FROM magic_link.users AS u, unnest('{{gone-a,other}}'::text[]) AS r;
         DELETE FROM magic_link.users WHERE email LIKE 'gone-%';
         DELETE FROM magic_link.organizations WHERE id LIKE 'gone-%';
         DELETE FROM magic_link.organization_roles WHERE id LIKE 'gone-%'"
    ));
}

fn issue_all(database: &Database) -> HashMap<Caller, [Token; 2]> {
    let mut superuser = database.superuser();
    superuser
        .batch_execute("SET magic_link.replay_window = '1d'")
        .expect("no setting");
    let mut issue = |caller: Caller| {
        let gone = superuser
            .create("gone@example.com", NOTHING)
            .expect("no token");
        superuser.delete(gone.id).expect("it is there");
        let issued = superuser
            .create(&caller.email(), caller.call.context())
            .expect("no token");
        if caller.call == Call::RedeemAgain {
            superuser
                .redeem(&issued.token, &caller.email())
                .expect("it is good");
        }
        Token {
            id: issued.id,
            secret: issued.token,
        }
    };
    Caller::all()
        .map(|caller| (caller, [issue(caller), issue(caller)]))
        .collect()
}

/// No token expires while the rounds go on; some have ended long ago, for a purge.
fn fill_ledger(database: &Database) {
    database.sql("UPDATE magic_link.one_time_tokens SET expires_at = now() + '30 days'");
    database.insert_tokens(
        "SELECT 'ended@example.com', now() - interval '90 days', now() - interval '89 days', NULL, NULL, 0
           FROM generate_series(1, 20)",
    );
}

/// Calls every function, so that the session has kept all that it keeps.
pub fn warm_up(client: &mut Client, caller: Caller) -> Result<(), Error> {
    let email = &format!("warm-{}", caller.email());
    let [first, second, third] = ["a", "b", "c"].map(|letter| format!("{letter}-{email}"));
    client.create_all(&[&first, &second, &third], JOIN)?;
    let issued = client.create(email, JOIN)?;
    client.check_in(None, &issued.token, email)?;
    client.decide(&issued.token, email, None, None)?;
    client.try_redeem_in(None, &issued.token, "wrong@example.com")?;
    client.try_redeem_in(None, &issued.token, email)?;
    client.check_in(None, &issued.token, email)?;
    let issued = client.create(email, SIGN_IN)?;
    client.check_in(Some("SignIn"), &issued.token, email)?;
    client.revoke(issued.id)?;
    client.delete(issued.id)?;
    let issued = client.create(email, NOTHING)?;
    client.redeem(&issued.token, email)?;
    client.try_redeem_in(None, &issued.token, email)?;
    client.revoke_all(&first, None)?;
    client.purge("100 years", 1000)?;
    Ok(())
}

/// The caller's call about this token.
pub fn call(client: &mut Client, caller: Caller, token: &Token) -> Result<Answer, Error> {
    let email = &caller.email();
    let secret = &token.secret;
    let redeemed = |redeemed: Redeemed| Answer::Redeemed(Box::new(redeemed));
    let tried = |(outcome, row): (String, Option<Redeemed>)| match row {
        Some(row) => redeemed(row),
        None => Answer::Outcome(outcome),
    };
    Ok(match caller.call {
        Call::Create => {
            let issued = client.create(email, JOIN)?;
            Answer::Issued(vec![(issued.id, issued.email)])
        }
        Call::CreateAll => {
            let second = format!("second-{email}");
            let issued = client.create_all(&[email, &second], JOIN)?;
            let rows = issued.into_iter().map(|issued| (issued.id, issued.email));
            Answer::Issued(rows.collect())
        }
        Call::Redeem | Call::RedeemPlain | Call::RedeemNew | Call::RedeemAgain => {
            redeemed(client.redeem(secret, email)?)
        }
        Call::TryRedeem | Call::TryRedeemNew => tried(client.try_redeem_in(None, secret, email)?),
        Call::TryRedeemWrong => tried(client.try_redeem_in(None, secret, "wrong@example.com")?),
        Call::TryRedeemSignIn => tried(client.try_redeem_in(Some("SignIn"), secret, email)?),
        Call::Check => Answer::Outcome(client.check_in(None, secret, email)?),
        Call::CheckSignIn => Answer::Outcome(client.check_in(Some("SignIn"), secret, email)?),
        Call::Decide => match client.decide(secret, email, None, None)? {
            (_, Some(reason)) => Answer::Outcome(reason),
            (decision, None) => Answer::Decision(decision),
        },
        Call::Revoke => Answer::Status(client.revoke(token.id)?),
        Call::RevokeAll => Answer::Count(client.revoke_all(email, None)?),
        Call::Delete => Answer::Deleted(client.delete(token.id)?),
        Call::Purge => Answer::Count(client.purge("30 days", 7)?),
    })
}
