//! An application that has lived with the extension for a while: what may get lost when the
//! extension is updated, or the database dumped and restored. It knows the first release alone.

use postgres::Client;
use serde_json::json;

use crate::calls::{Calls, Issued};
use crate::database::Database;
use crate::sqlstate::ExpectSqlState;

/// The schema of the application's own objects.
pub const SCHEMA: &str = "app";

/// Who has an account, is a member of acme, and has a profile.
const ADA: &str = "ada@example.com";

/// A token in each state, as it was issued.
pub struct Application {
    active: Issued,
    consumed: Issued,
    revoked: Issued,
    expired: Issued,
}

impl Application {
    /// Makes the application's roles, which are the whole cluster's.
    pub fn make_roles(database: &Database) {
        database.role("backend", "LOGIN NOSUPERUSER");
        for kind in ["reader", "clerk"] {
            database.role(kind, "LOGIN");
        }
    }

    /// Grants what the application needs, makes its own objects beside the extension's, and puts data into both.
    pub fn move_in(database: &Database) -> Self {
        grant(database);
        make_own_objects(database);
        fill_directory(database);
        Self::use_tokens(database)
    }

    fn use_tokens(database: &Database) -> Self {
        let mut backend = database.backend();
        let mut issue = |email: &str, context: &str| backend.create(email, context).unwrap();
        let consumed = issue(
            ADA,
            r#"{"jitOrganizationIds": ["acme"], "note": "used\nonce"}"#,
        );
        let revoked = issue("eve@example.com", r#"{"interactionEvent": "Register"}"#);
        let active = issue(
            "Zoë@BÜCHER.example",
            &json!({
                "jitOrganizationIds": ["globex", "acme"],
                "organizationRoleIds": {"globex": ["admin"]},
                "interactionEvent": "Register",
                "return to": "/überall?q=\"'\\ \t☃ 𝄞",
                "filler": "ä".repeat(7_500),
            })
            .to_string(),
        );
        let expired = backend
            .create_for("late@example.com", Some(1), Some(r#"{"n": 1e100}"#))
            .unwrap();

        backend.redeem(&consumed.token, ADA).unwrap();
        database.superuser()
            .execute(
                "UPDATE magic_link.one_time_tokens SET revoked_at = clock_timestamp(), revoked_by = 'dba' WHERE id = $1",
                &[&revoked.id],
            )
            .unwrap();
        database.sql(&format!(
            "INSERT INTO app.profiles SELECT id, 'The Countess' FROM magic_link.users WHERE email = '{ADA}'"
        ));
        database.wait_until_expired(expired.id);
        Self {
            active,
            consumed,
            revoked,
            expired,
        }
    }

    /// What was issued, redeemed and granted holds good, and the application's own objects do their work.
    #[track_caller]
    pub fn assert_goes_on(&self, database: &Database) {
        self.assert_goes_on_with(database, &mut database.backend());
    }

    /// The same, in a session that the backend may have had before.
    #[track_caller]
    pub fn assert_goes_on_with(&self, database: &Database, backend: &mut Client) {
        self.assert_tokens(backend);
        assert_grants(database);
        assert_own_objects(database);
    }

    #[track_caller]
    fn assert_tokens(&self, backend: &mut Client) {
        for (token, code, outcome) in [
            (&self.consumed, "OT003", "token_consumed"),
            (&self.revoked, "OT004", "token_revoked"),
            (&self.expired, "OT005", "token_expired"),
        ] {
            let event = Some("Register");
            let found = backend.check_in(event, &token.token, &token.email).unwrap();
            assert_eq!(found, outcome);
            let (tried, _) = backend
                .try_redeem_in(event, &token.token, &token.email)
                .unwrap();
            assert_eq!(tried, outcome);
            backend
                .redeem_in(event, &token.token, &token.email)
                .expect_sqlstate(code);
        }

        let Issued {
            id, token, email, ..
        } = &self.active;
        assert_eq!(email, "zoë@xn--bcher-kva.example");
        let decision = backend.decide(token, email, Some(ADA), None).unwrap();
        assert_eq!(decision, ("ask".to_owned(), None));
        let seen = backend
            .query_one(
                "SELECT status, decision FROM magic_link.session_switch WHERE token_id = $1",
                &[id],
            )
            .unwrap();
        assert_eq!((seen.get(0), seen.get(1)), ("active", "redeem"));
        backend.redeem(token, email).expect_sqlstate("OT006");
        let redeemed = backend.redeem_in(Some("Register"), token, email).unwrap();
        assert!(redeemed.user_created);
        assert_eq!(redeemed.context, self.active.context);
        assert_eq!(
            redeemed.memberships,
            json!([
                {"organizationId": "acme", "status": "added", "roleIds": ["editor", "member"]},
                {"organizationId": "globex", "status": "added", "roleIds": ["admin"]},
            ])
        );

        let again = backend
            .create(ADA, r#"{"jitOrganizationIds": ["acme"]}"#)
            .unwrap();
        let redeemed = backend.redeem(&again.token, ADA).unwrap();
        assert!(!redeemed.user_created);
        assert_eq!(
            redeemed.memberships,
            json!([{"organizationId": "acme", "status": "already_member", "roleIds": ["editor", "member"]}])
        );
    }
}

fn grant(database: &Database) {
    let [backend, reader, clerk] =
        ["backend", "reader", "clerk"].map(|kind| database.role_name(kind));
    database.sql(&format!(
        "SELECT magic_link.grant_backend('{backend}');
         GRANT USAGE ON SCHEMA magic_link TO {reader}, {clerk};
         GRANT SELECT ON magic_link.organizations, magic_link.one_time_token_status TO {reader};
         GRANT SELECT (id, email) ON magic_link.users TO {reader};
         GRANT SELECT, INSERT, UPDATE, DELETE ON magic_link.users TO {clerk} WITH GRANT OPTION;
         GRANT EXECUTE ON FUNCTION magic_link.normalize_email(text) TO {reader}, {clerk};
         ALTER DATABASE {name} SET magic_link.max_expires_in = '1h';
         ALTER ROLE {backend} IN DATABASE {name} SET magic_link.prompt = 'consent';
         COMMENT ON DATABASE {name} IS 'where the application lives'",
        name = database.name(),
    ));
}

fn make_own_objects(database: &Database) {
    let reader = database.role_name("reader");
    database.sql(&format!(
        "CREATE SCHEMA app;
         GRANT USAGE ON SCHEMA app TO {reader};
         CREATE TABLE app.profiles (
             user_id uuid PRIMARY KEY REFERENCES magic_link.users (id) ON DELETE CASCADE,
             nickname text NOT NULL
         );
         CREATE FUNCTION app.trim_nickname() RETURNS trigger LANGUAGE plpgsql
             AS 'BEGIN NEW.nickname := btrim(NEW.nickname); RETURN NEW; END';
         CREATE TRIGGER trim_nickname BEFORE INSERT ON app.profiles FOR EACH ROW EXECUTE FUNCTION app.trim_nickname();
         CREATE VIEW app.invitations AS
             SELECT s.id, s.email, s.status, s.expires_at FROM magic_link.one_time_token_status AS s;
         CREATE VIEW app.decisions AS SELECT s.token_id, s.decision, s.reason FROM magic_link.session_switch AS s;
         GRANT SELECT ON app.profiles, app.invitations, app.decisions TO {reader};
         COMMENT ON TABLE app.profiles IS 'What a user likes to be called.';
         COMMENT ON VIEW app.invitations IS 'Who was invited.'"
    ));
}

fn fill_directory(database: &Database) {
    database.organization("acme", &["member", "editor"]);
    database.organization("globex", &["member"]);
    database.roles(&["admin"]);
    // A few memberships of many users: whoever loads them side by side is done with the memberships first.
    database.sql(
        "INSERT INTO magic_link.users (email) SELECT format('user%s@example.com', n) FROM generate_series(1, 3000) AS n;
         INSERT INTO magic_link.organization_memberships (organization_id, user_id)
         SELECT o.id, u.id FROM magic_link.organizations AS o, magic_link.users AS u WHERE u.email LIKE 'user7_@example.com';
         INSERT INTO magic_link.organization_membership_roles (organization_id, user_id, organization_role_id)
         SELECT m.organization_id, m.user_id, 'member' FROM magic_link.organization_memberships AS m",
    );
}

/// Each role reaches what it was given, and no more.
#[track_caller]
fn assert_grants(database: &Database) {
    let mut reader = database.connect_as(&database.role_name("reader"));
    for query in [
        "SELECT FROM magic_link.organizations",
        "SELECT FROM magic_link.one_time_token_status",
        "SELECT id, email FROM magic_link.users",
        "SELECT FROM app.invitations",
        "SELECT FROM app.decisions",
    ] {
        assert!(!reader.query(query, &[]).unwrap().is_empty(), "{query}");
    }
    for query in [
        "SELECT created_at FROM magic_link.users",
        "SELECT FROM magic_link.one_time_tokens",
        "SELECT magic_link.check_one_time_token('0', 'a@example.com')",
    ] {
        reader.query(query, &[]).expect_sqlstate("42501");
    }
    database
        .connect_as(&database.role_name("clerk"))
        .batch_execute(
            "INSERT INTO magic_link.users (email) VALUES ('walk-in@example.com');
             UPDATE magic_link.users SET created_at = now() WHERE email = 'walk-in@example.com';
             DELETE FROM magic_link.users WHERE email = 'walk-in@example.com'",
        )
        .unwrap();
    let mut backend = database.backend();
    for table in database.tables() {
        backend
            .query(&format!("SELECT FROM {table}"), &[])
            .expect_sqlstate("42501");
    }
    backend
        .create_for(ADA, Some(3601), None)
        .expect_sqlstate("22023");
}

#[track_caller]
fn assert_own_objects(database: &Database) {
    let invited =
        |status: &str| database.count(&format!("app.invitations WHERE status = '{status}'"));
    assert_eq!(["consumed", "revoked", "expired"].map(invited), [3, 1, 1]);
    assert_eq!(
        database.count("app.decisions WHERE reason = 'token_expired'"),
        1
    );

    let mut superuser = database.superuser();
    superuser
        .batch_execute("INSERT INTO app.profiles VALUES (gen_random_uuid(), 'nobody')")
        .expect_sqlstate("23503");
    superuser
        .batch_execute(
            "INSERT INTO app.profiles SELECT id, ' seven ' FROM magic_link.users WHERE email = 'user7@example.com'",
        )
        .unwrap();
    assert_eq!(database.count("app.profiles WHERE nickname = 'seven'"), 1);
    superuser
        .batch_execute("DELETE FROM magic_link.users WHERE email = 'user7@example.com'")
        .unwrap();
    assert_eq!(database.count("app.profiles"), 1);
    superuser
        .batch_execute("INSERT INTO magic_link.organization_memberships VALUES ('nowhere', (SELECT min(user_id::text)::uuid FROM app.profiles))")
        .expect_sqlstate("23503");
}
