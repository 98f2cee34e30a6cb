//! A database for one test: tests run in parallel and do not see each other.

use std::fmt::Display;
use std::thread;

use postgres::Client;
use postgres::types::ToSql;
use uuid::Uuid;

use crate::calls::Issued;
use crate::cluster::{Cluster, TEMPLATE};
use crate::polling::wait_until;

/// A fresh database. It has a backend role and an admin role of its own, since roles belong to the whole cluster.
///
/// When it is dropped and the test has not failed, it searches the server log: no test may cause an internal error,
/// whatever else the test checks.
pub struct Database<'a> {
    cluster: &'a Cluster,
    number: u32,
    name: String,
    /// Whether the test kills server processes of this cluster on purpose.
    kills: bool,
}

impl Database<'static> {
    /// A database of the shared cluster, with the extension.
    pub fn new() -> Self {
        Self::of(Cluster::shared())
    }
}

impl Default for Database<'static> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Database<'a> {
    /// A database with the extension, a role that went through `grant_backend`, and one that went
    /// through `grant_admin`.
    pub fn of(cluster: &'a Cluster) -> Self {
        Self::bare(cluster, &format!("TEMPLATE {TEMPLATE}")).with_roles()
    }

    /// The same in a database made with these options of CREATE DATABASE.
    pub fn made_with(cluster: &'a Cluster, options: &str) -> Self {
        let database = Self::bare(cluster, options);
        database.sql("CREATE EXTENSION magic_link");
        database.with_roles()
    }

    fn with_roles(self) -> Self {
        let backend = self.role("backend", "LOGIN NOSUPERUSER");
        let admin = self.role("admin", "LOGIN NOSUPERUSER");
        self.sql(&format!(
            "SELECT magic_link.grant_backend('{backend}'), magic_link.grant_admin('{admin}')"
        ));
        self
    }

    /// A database made with these options of CREATE DATABASE.
    pub fn bare(cluster: &'a Cluster, options: &str) -> Self {
        let number = cluster.next_number();
        let name = format!("test_{number}");
        cluster
            .connect("postgres", "postgres")
            .batch_execute(&format!("CREATE DATABASE {name} {options}"))
            .unwrap_or_else(|error| panic!("no database {name}: {error:?}"));
        Self {
            cluster,
            number,
            name,
            kills: false,
        }
    }

    /// For a test that kills single server processes: a process that SIGKILL ended does not fail it.
    pub fn with_kills(mut self) -> Self {
        self.kills = true;
        self
    }

    /// A database that exists already and whose roles have the names of this one's. It may be a second database of the
    /// cluster, or the same one restored on another cluster.
    pub fn with_roles_of_this<'b>(&self, cluster: &'b Cluster, name: &str) -> Database<'b> {
        Database {
            cluster,
            number: self.number,
            name: name.to_owned(),
            kills: self.kills,
        }
    }

    /// The same database on a standby of its cluster, which has replayed all that was written so far.
    pub fn on<'s>(&self, standby: &'s Cluster) -> Database<'s> {
        self.cluster.wait_for_catchup(standby);
        self.with_roles_of_this(standby, &self.name)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn cluster(&self) -> &'a Cluster {
        self.cluster
    }

    /// Creates a role that no other test has, and returns its name.
    pub fn role(&self, kind: &str, options: &str) -> String {
        let role = self.role_name(kind);
        self.sql(&format!("CREATE ROLE {role} {options}"));
        role
    }

    /// The name of a role that `role` created.
    pub fn role_name(&self, kind: &str) -> String {
        format!("{kind}_{}", self.number)
    }

    /// The name of the role that went through `grant_backend` and has no other right.
    pub fn backend_role(&self) -> String {
        self.role_name("backend")
    }

    /// A connection as the role that went through `grant_backend`.
    pub fn backend(&self) -> Client {
        self.connect_as(&self.backend_role())
    }

    /// The name of the role that went through `grant_admin` and has no other right.
    pub fn admin_role(&self) -> String {
        self.role_name("admin")
    }

    /// A connection as the role that went through `grant_admin`.
    pub fn admin(&self) -> Client {
        self.connect_as(&self.admin_role())
    }

    pub fn superuser(&self) -> Client {
        self.connect_as("postgres")
    }

    pub fn connect_as(&self, role: &str) -> Client {
        self.cluster.connect(&self.name, role)
    }

    /// Runs statements as a superuser.
    #[track_caller]
    pub fn sql(&self, statements: &str) {
        if let Err(error) = self.superuser().batch_execute(statements) {
            panic!("{statements}: {error:?}");
        }
    }

    /// The one value of one row, as a superuser reads it.
    #[track_caller]
    pub fn value<T>(&self, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> T
    where
        T: for<'r> postgres::types::FromSql<'r>,
    {
        match self.superuser().query_one(query, parameters) {
            Ok(row) => row.get(0),
            Err(error) => panic!("{query}: {error:?}"),
        }
    }

    /// How many rows a FROM clause has.
    #[track_caller]
    pub fn count(&self, from: &str) -> i64 {
        self.value(&format!("SELECT count(*) FROM {from}"), &[])
    }

    /// Sets a setting of the extension (ALTER DATABASE … SET) for all sessions that start from now on.
    #[track_caller]
    pub fn set(&self, setting: &str, value: impl Display) {
        let name = &self.name;
        self.sql(&format!(
            "ALTER DATABASE {name} SET magic_link.{setting} = '{value}'"
        ));
    }

    /// Updates the row of a token as a superuser.
    #[track_caller]
    pub fn change(&self, token: Uuid, change: &str) {
        self.sql(&format!(
            "UPDATE magic_link.one_time_tokens SET {change} WHERE id = '{token}'"
        ));
    }

    #[track_caller]
    pub fn status_of(&self, token: &Issued) -> String {
        self.value(
            "SELECT status FROM magic_link.one_time_token_status WHERE id = $1",
            &[&token.id],
        )
    }

    /// Waits until the server process waits for a lock that another process holds (`pg_blocking_pids`).
    #[track_caller]
    pub fn wait_until_blocked(&self, process_id: i32) {
        let mut observer = self.superuser();
        wait_until("a process waits for a lock", || {
            observer
                .query_one(
                    "SELECT cardinality(pg_catalog.pg_blocking_pids($1)) > 0",
                    &[&process_id],
                )
                .expect("the observer's query failed")
                .get(0)
        });
    }

    /// Waits until the token has expired by the server's own clock.
    #[track_caller]
    pub fn wait_until_expired(&self, id: Uuid) {
        let mut observer = self.superuser();
        wait_until("a token expires", || {
            observer
                .query_one(
                    "SELECT clock_timestamp() >= expires_at FROM magic_link.one_time_tokens WHERE id = $1",
                    &[&id],
                )
                .expect("the observer's query failed")
                .get(0)
        });
    }

    /// How many sequential scans of one_time_tokens there were so far, and how many of its rows were read in any way. It counts
    /// the session of `client` and all sessions that have ended.
    pub fn reads_by(&self, client: &mut Client) -> (i64, i64) {
        // A session reports its statistics between two transactions: now and then, or when it is told to.
        client
            .batch_execute("SELECT pg_stat_force_next_flush()")
            .expect("no flush");
        let row = self
            .superuser()
            .query_one(
                "SELECT seq_scan, seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables
                  WHERE relid = 'magic_link.one_time_tokens'::regclass",
                &[],
            )
            .expect("no statistics");
        (row.get(0), row.get(1))
    }

    /// Inserts rows into one_time_tokens. Each id is a UUIDv7 of `created_at`, as the extension makes it. `rows` is a query
    /// for `email, created_at, expires_at, consumed_at, revoked_at, failed_attempts`.
    #[track_caller]
    pub fn insert_tokens(&self, rows: &str) {
        self.sql(&format!(
            "INSERT INTO magic_link.one_time_tokens
                    (id, token_hash, email, organization_ids, context, created_at, expires_at,
                     consumed_at, consumed_by, revoked_at, failed_attempts)
             SELECT overlay(overlay(r.random PLACING lpad(to_hex(floor(extract(epoch FROM r.created_at) * 1000)::int8), 12, '0')
                        FROM 1) PLACING '7' FROM 13)::uuid,
                    sha256(r.random::bytea), r.email, '{{}}', '{{}}', r.created_at, r.expires_at,
                    r.consumed_at::timestamptz, CASE WHEN r.consumed_at IS NOT NULL THEN 'somebody' END,
                    r.revoked_at::timestamptz, r.failed_attempts
               FROM (SELECT g.*, replace(gen_random_uuid()::text, '-', '')
                       FROM ({rows}) AS g (email, created_at, expires_at, consumed_at, revoked_at, failed_attempts))
                    AS r (email, created_at, expires_at, consumed_at, revoked_at, failed_attempts, random)"
        ));
    }

    /// Makes an organization with these default roles.
    pub fn organization(&self, id: &str, default_roles: &[&str]) {
        self.roles(default_roles);
        let mut superuser = self.superuser();
        superuser
            .execute(
                "INSERT INTO magic_link.organizations (id, name) VALUES ($1, upper($1))",
                &[&id],
            )
            .expect("no organization");
        superuser
            .execute(
                "INSERT INTO magic_link.organization_jit_roles (organization_id, organization_role_id)
                 SELECT $1, unnest($2::text[])",
                &[&id, &default_roles],
            )
            .expect("no default roles");
    }

    /// Makes roles, where they do not exist yet.
    pub fn roles(&self, ids: &[&str]) {
        self.superuser()
            .execute(
                "INSERT INTO magic_link.organization_roles (id, name)
                 SELECT id, upper(id) FROM unnest($1::text[]) AS id ON CONFLICT DO NOTHING",
                &[&ids],
            )
            .expect("no roles");
    }

    /// Every row of every table of the schema, as text. Tests compare it to see that a call changed nothing.
    pub fn contents(&self) -> String {
        let mut superuser = self.superuser();
        let mut contents = String::new();
        for table in self.tables() {
            let rows = superuser
                .query(&format!("SELECT t::text FROM {table} AS t ORDER BY 1"), &[])
                .expect("a table that cannot be read");
            contents += &table;
            for row in rows {
                contents += "\n  ";
                contents += row.get(0);
            }
            contents += "\n";
        }
        contents
    }

    /// The tables of the schema, from the catalogue, so that a new table is not forgotten.
    pub fn tables(&self) -> Vec<String> {
        self.superuser()
            .query(
                "SELECT c.oid::regclass::text FROM pg_class AS c
                  WHERE c.relnamespace = 'magic_link'::regnamespace AND c.relkind IN ('r', 'p')
                  ORDER BY 1",
                &[],
            )
            .expect("no catalogue")
            .iter()
            .map(|row| row.get(0))
            .collect()
    }

    /// The tables and views of these schemas, each with the list of its columns.
    pub fn columns(&self, schemas: &[&str]) -> Vec<(String, String)> {
        self.superuser()
            .query(
                "SELECT c.oid::regclass::text, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
                   FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
                  WHERE c.relnamespace::regnamespace::text = ANY ($1) AND c.relkind IN ('r', 'p', 'v')
                    AND a.attnum > 0 AND NOT a.attisdropped
                  GROUP BY 1 ORDER BY 1",
                &[&schemas],
            )
            .expect("no catalogue")
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect()
    }

    /// Every row of these relations, with these of their columns, as text.
    #[track_caller]
    pub fn rows(&self, columns: &[(String, String)]) -> String {
        let mut superuser = self.superuser();
        let mut all = String::new();
        for (relation, columns) in columns {
            let query =
                format!("SELECT t::text FROM (SELECT {columns} FROM {relation}) AS t ORDER BY 1");
            let rows = match superuser.query(&query, &[]) {
                Ok(rows) => rows,
                Err(error) => panic!("{query}: {error:?}"),
            };
            all += &format!("{relation} ({columns})\n");
            for row in rows {
                all += row.get(0);
                all += "\n";
            }
        }
        all
    }

    /// Nothing that a test does on purpose is an internal error (XX000), and no server process dies.
    fn assert_no_internal_error(&self) {
        let internal_error = format!("XX000 {} ", self.name);
        let of_any_database = ["panicked at", "stack backtrace", "terminated by signal"];
        for line in self.cluster.log().lines() {
            assert!(!line.starts_with(&internal_error), "{line}");
            let killed = self.kills && line.contains("terminated by signal 9");
            let failed = of_any_database.iter().any(|sign| line.contains(sign));
            assert!(!failed || killed, "{line}");
        }
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.assert_no_internal_error();
        }
    }
}
