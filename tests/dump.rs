//! A dump restored on an empty server is the same database: its data, its objects, who may do what, and what a link that was
//! mailed before leads to.

use std::path::{Path, PathBuf};

use magic_link_harness::{APPLICATION_SCHEMA, Application, Catalogue, Cluster, Database};

const README: &str = include_str!("../README.md");

/// A row for each table that the first release had not.
const NEWER_TABLES: &[(&str, &str)] = &[(
    "magic_link.organization_jit_email_domains",
    "('acme', 'elsewhere.example')",
)];

const PLAIN: &str = "--create --format=plain";
const PLAIN_RESTORE: &str = "psql -X -q -v ON_ERROR_STOP=1 -f";
const DIRECTORY: &str = "--format=directory --jobs=4";
const SERIAL_RESTORE: &str = "pg_restore --exit-on-error --create --dbname=postgres";

/// Several jobs do not load the tables of an extension in the order of their foreign keys, which are there already. The dump
/// is of one snapshot, so what they would check holds.
const PARALLEL_RESTORE: &str = "PGOPTIONS='-c session_replication_role=replica' pg_restore --jobs=4 --create --dbname=postgres";

const SCHEMAS: &[&str] = &["magic_link", APPLICATION_SCHEMA];

/// A database, and what was dumped of it.
struct Dumped {
    db: Database<'static>,
    application: Application,
    dump: PathBuf,
}

impl Dumped {
    /// A database with an application in it, dumped with these options of pg_dump.
    fn with(options: &str) -> Self {
        let (db, application) = lived_in("");
        Self::of(db, application, options)
    }

    fn of(db: Database<'static>, application: Application, options: &str) -> Self {
        let dump = db.cluster().file(&format!("{}.dump", db.name()));
        let command = format!("pg_dump {options} --file={} {}", dump.display(), db.name());
        run(db.cluster(), &command);
        Self {
            db,
            application,
            dump,
        }
    }

    /// An empty server that has the roles, which no dump of a database holds.
    fn server_with_roles(&self) -> Cluster {
        let server = Cluster::start(&[]);
        let all = run(self.db.cluster(), "pg_dumpall --roles-only");
        // The superuser of the one is there on the other.
        let roles = all.replace("CREATE ROLE postgres;\n", "");
        assert!(roles.contains(&self.db.backend_role()), "{roles}");
        server.psql("postgres", "postgres", &roles);
        server
    }

    /// The database as it is on the server on which it was restored.
    fn restored_on<'a>(&self, server: &'a Cluster) -> Database<'a> {
        self.db.with_roles_of_this(server, self.db.name())
    }

    #[track_caller]
    fn assert_restored_on(&self, server: &Cluster) {
        let restored = self.restored_on(server);
        assert_same_rows(&self.db, &restored);
        assert_same_facts(&facts(&self.db), &facts(&restored));
        self.application.assert_goes_on(&restored);
    }
}

/// A database with an application in it, and the extension of this version, or of another.
fn lived_in(version: &str) -> (Database<'static>, Application) {
    let db = Database::bare(Cluster::shared(), "");
    db.sql(&format!("CREATE EXTENSION magic_link {version}"));
    Application::make_roles(&db);
    let application = Application::move_in(&db);
    fill_newer_tables(&db);
    (db, application)
}

/// What is lost of a table can be seen only where there is something in it.
fn fill_newer_tables(db: &Database) {
    for table in db.tables() {
        if let Some((_, row)) = NEWER_TABLES.iter().find(|(name, _)| *name == table) {
            db.sql(&format!("INSERT INTO {table} VALUES {row}"));
        }
        assert!(db.count(&table) > 0, "NEWER_TABLES lacks a row of {table}");
    }
}

/// Runs a command line, and answers what it printed.
#[track_caller]
fn run(cluster: &Cluster, command: &str) -> String {
    let answer = cluster.shell(command);
    let complaint = String::from_utf8_lossy(&answer.stderr);
    assert!(answer.status.success(), "{command}:\n{complaint}");
    String::from_utf8(answer.stdout).expect("UTF-8")
}

fn facts(db: &Database) -> Catalogue {
    Catalogue::read(&mut db.superuser(), SCHEMAS)
}

#[track_caller]
fn assert_same_facts(dumped: &Catalogue, restored: &Catalogue) {
    let difference = dumped.difference("in what was dumped", restored, "in what was restored");
    assert!(difference.is_empty(), "\n{difference}");
}

/// Every row of every table and of every view.
#[track_caller]
fn assert_same_rows(dumped: &Database, restored: &Database) {
    for relation in dumped.columns(SCHEMAS) {
        let relation = [relation];
        let [before, after] = [dumped, restored].map(|db| db.rows(&relation));
        let [rows, left] = [&before, &after].map(|text| text.lines().skip(1).count());
        assert!(
            before == after,
            "{relation:?}: {rows} rows, and {left} after the restore, or others"
        );
    }
}

#[track_caller]
fn restore(server: &Cluster, command: &str, dump: &Path) {
    run(server, &format!("{command} {}", dump.display()));
}

#[test]
fn a_dump_restored_by_psql_is_the_same_database() {
    let dumped = Dumped::with(PLAIN);
    let server = dumped.server_with_roles();
    restore(&server, PLAIN_RESTORE, &dumped.dump);
    dumped.assert_restored_on(&server);
}

#[test]
fn a_dump_restored_by_one_job_is_the_same_database() {
    let dumped = Dumped::with(DIRECTORY);
    let server = dumped.server_with_roles();
    restore(&server, SERIAL_RESTORE, &dumped.dump);
    dumped.assert_restored_on(&server);
}

#[test]
fn a_dump_restored_by_several_jobs_is_the_same_database() {
    let dumped = Dumped::with(DIRECTORY);
    let server = dumped.server_with_roles();
    restore(&server, PARALLEL_RESTORE, &dumped.dump);
    dumped.assert_restored_on(&server);
}

/// Into a database that is there, and so without what ALTER DATABASE set: that is the DBA's to set again, or --create's.
#[test]
fn what_the_readme_says_of_a_parallel_restore_is_enough() {
    let dumped = Dumped::with(DIRECTORY);
    let server = dumped.server_with_roles();
    let name = dumped.db.name();
    run(&server, &format!("createdb --template=template0 {name}"));
    let commands = readmes_restores();
    assert!(!commands.is_empty());
    for command in commands {
        restore(&server, &format!("{command} --dbname={name}"), &dumped.dump);
    }
    let restored = dumped.restored_on(&server);
    assert_same_rows(&dumped.db, &restored);
    let [before, after] = [&dumped.db, &restored].map(|db| facts(db).without("database"));
    assert_same_facts(&before, &after);
}

/// What stands in the README between backticks and calls pg_restore.
fn readmes_restores() -> Vec<String> {
    let spans = README.split('`').skip(1).step_by(2);
    spans
        .filter(|span| span.contains("pg_restore -"))
        .map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// Such as grants, where their roles are not there.
#[test]
fn a_restore_that_loses_something_fails() {
    let dumped = Dumped::with(DIRECTORY);
    let server = Cluster::start(&[]);
    let answer = server.shell(&format!("{PARALLEL_RESTORE} {}", dumped.dump.display()));
    assert!(!answer.status.success());
    let complaint = String::from_utf8_lossy(&answer.stderr);
    assert!(complaint.contains(&dumped.db.backend_role()), "{complaint}");
}

/// pg_dump leaves out what it takes for a part of the extension: an update must not make the application's grants one.
#[test]
fn a_database_that_was_updated_is_dumped_whole() {
    let (db, application) = lived_in("VERSION '0.1.0'");
    db.sql("ALTER EXTENSION magic_link UPDATE");
    let dumped = Dumped::of(db, application, PLAIN);
    let server = dumped.server_with_roles();
    restore(&server, PLAIN_RESTORE, &dumped.dump);
    dumped.assert_restored_on(&server);
}

/// Another way to this version: a dump names none, so a newer server installs its own.
#[test]
fn a_dump_of_the_first_release_restores_into_this_version() {
    let (db, application) = lived_in("VERSION '0.1.0'");
    let dumped = Dumped::of(db, application, PLAIN);
    let server = dumped.server_with_roles();
    restore(&server, PLAIN_RESTORE, &dumped.dump);
    let restored = dumped.restored_on(&server);
    let current: bool = restored.value(
        "SELECT installed_version = default_version FROM pg_available_extensions WHERE name = 'magic_link'",
        &[],
    );
    assert!(current);
    assert_same_rows(&dumped.db, &restored);
    dumped.application.assert_goes_on(&restored);
}

/// What is in the extension's tables is dumped; what they are like is the extension's to say.
#[test]
fn what_is_added_to_the_extensions_own_tables_is_not_dumped() {
    let db = Database::new();
    db.sql(
        "CREATE FUNCTION noticed() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER noticed AFTER INSERT ON magic_link.users FOR EACH ROW EXECUTE FUNCTION noticed();
         CREATE INDEX noticed ON magic_link.users (created_at);
         ALTER TABLE magic_link.users ADD CONSTRAINT noticed CHECK (created_at IS NOT NULL);
         CREATE POLICY noticed ON magic_link.users USING (true);
         COMMENT ON TABLE magic_link.users IS 'noticed'",
    );
    let dump = run(db.cluster(), &format!("pg_dump {}", db.name()));
    assert!(dump.contains("CREATE FUNCTION public.noticed()"), "{dump}");
    for added in [
        "CREATE TRIGGER",
        "CREATE INDEX",
        "ADD CONSTRAINT",
        "CREATE POLICY",
        "COMMENT ON TABLE",
    ] {
        assert!(!dump.contains(added), "{added} is in\n{dump}");
    }
}
