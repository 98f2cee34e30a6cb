//! pg_dump and pg_restore: a dump restored on an empty server is the same database. Its data, objects and privileges are the
//! same, and links that were mailed before still work.

use magic_link_harness::documentation::block;
use magic_link_harness::{APPLICATION_SCHEMA, Application, Catalogue, Cluster, Database};

const SCHEMAS: &[&str] = &["magic_link", APPLICATION_SCHEMA];

/// A row for each table that the first release had not.
const NEWER_TABLES: &[(&str, &str)] = &[(
    "magic_link.organization_jit_email_domains",
    "('acme', 'elsewhere.example')",
)];

const PLAIN: &str = "--create --format=plain";
const DIRECTORY: &str = "--format=directory --jobs=4";

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

/// A database with what a restore by several jobs does in the wrong order if it can: the foreign key of a large table before
/// the small table of users that it leads to, for which no job is free.
fn with_an_impatient_foreign_key() -> Database<'static> {
    let db = Database::bare(Cluster::shared(), "");
    db.sql(
        "CREATE EXTENSION magic_link;
         CREATE SCHEMA app;
         INSERT INTO magic_link.users (email) VALUES ('ada@example.com');
         CREATE TABLE app.portraits (user_id uuid REFERENCES magic_link.users, portrait text);
         INSERT INTO app.portraits
         SELECT (SELECT id FROM magic_link.users), string_agg(gen_random_uuid()::text, '') FROM generate_series(1, 20000);
         CREATE TABLE public.one AS SELECT repeat('x', 100) FROM generate_series(1, 200000);
         CREATE TABLE public.two AS SELECT * FROM public.one;
         CREATE TABLE public.three AS SELECT * FROM public.one",
    );
    db
}

/// Dumps it with these options of pg_dump, and answers where to.
#[track_caller]
fn dump(db: &Database, options: &str) -> String {
    let dump = db.cluster().file(&format!("{}.dump", db.name()));
    let dump = dump.display();
    run(
        db.cluster(),
        &format!("pg_dump {options} --file={dump} {}", db.name()),
    );
    dump.to_string()
}

/// Runs a command line, and answers what it printed.
#[track_caller]
fn run(cluster: &Cluster, command: &str) -> String {
    let answer = cluster.shell(command);
    let complaint = String::from_utf8_lossy(&answer.stderr);
    assert!(answer.status.success(), "{command}:\n{complaint}");
    String::from_utf8(answer.stdout).expect("UTF-8")
}

/// An empty server that has the roles, which no dump of a database holds.
fn server_with_roles_of(db: &Database) -> Cluster {
    let server = Cluster::start(&[]);
    let all = run(db.cluster(), "pg_dumpall --roles-only");
    // The superuser of the one is there on the other.
    let roles = all.replace("CREATE ROLE postgres;\n", "");
    assert_ne!(roles, all);
    server.psql("postgres", "postgres", &roles);
    server
}

#[track_caller]
fn assert_restored(db: &Database, application: &Application, server: &Cluster) {
    let restored = db.with_roles_of_this(server, db.name());
    assert_same_rows(db, &restored);
    assert_same_facts(&facts(db), &facts(&restored));
    application.assert_goes_on(&restored);
}

/// Every row of every table and of every view.
#[track_caller]
fn assert_same_rows(dumped: &Database, restored: &Database) {
    for relation in dumped.columns(SCHEMAS) {
        let relation = [relation];
        let [before, after] = [dumped, restored].map(|db| db.rows(&relation));
        let [rows, left] = [&before, &after].map(|text| text.lines().count() - 1);
        assert!(
            before == after,
            "{relation:?}: {rows} rows, and {left} after the restore, or others"
        );
    }
}

fn facts(db: &Database) -> Catalogue {
    Catalogue::read(&mut db.superuser(), SCHEMAS)
}

#[track_caller]
fn assert_same_facts(dumped: &Catalogue, restored: &Catalogue) {
    let difference = dumped.difference("in what was dumped", restored, "in what was restored");
    assert!(difference.is_empty(), "\n{difference}");
}

fn psql_restores(server: &Cluster, dump: &str) {
    run(server, &format!("psql -X -q -v ON_ERROR_STOP=1 -f {dump}"));
}

#[test]
fn a_dump_restored_by_psql_is_the_same_database() {
    let (db, application) = lived_in("");
    let dump = dump(&db, PLAIN);
    let server = server_with_roles_of(&db);
    psql_restores(&server, &dump);
    assert_restored(&db, &application, &server);
}

#[test]
fn a_dump_restored_by_one_job_is_the_same_database() {
    let (db, application) = lived_in("");
    let dump = dump(&db, DIRECTORY);
    let server = server_with_roles_of(&db);
    run(
        &server,
        &format!("pg_restore --exit-on-error --create --dbname=postgres {dump}"),
    );
    assert_restored(&db, &application, &server);
}

/// The foreign keys between the extension's tables are there before the data, which several jobs load in any order: they are
/// not checked meanwhile, and hold, since a dump is of one snapshot. Those of the application come when all data are there.
#[test]
fn a_dump_restored_by_several_jobs_is_the_same_database() {
    let (db, application) = lived_in("");
    let dump = dump(&db, DIRECTORY);
    let server = server_with_roles_of(&db);
    for command in [
        "PGOPTIONS='-c session_replication_role=replica' \
         pg_restore --jobs=4 --section=pre-data --section=data --create --dbname=postgres",
        &format!(
            "pg_restore --jobs=4 --section=post-data --dbname={}",
            db.name()
        ),
    ] {
        run(&server, &format!("{command} {dump}"));
    }
    assert_restored(&db, &application, &server);
}

/// Runs the commands that the page gives for a parallel restore. The database is there, and so has not what ALTER DATABASE
/// set: that is for --create.
#[track_caller]
fn restore_as_the_page_says(db: &Database, dump: &str, server: &Cluster) {
    let name = db.name();
    run(server, &format!("createdb --template=template0 {name}"));
    let commands = block("docs/operations.md", "## Backup", "sh");
    assert!(
        commands
            .lines()
            .all(|command| command.contains("pg_restore -"))
    );
    assert_eq!(commands.lines().count(), 2);
    for command in commands.lines() {
        run(
            server,
            &command.replace('…', &format!("--dbname={name} {dump}")),
        );
    }
    let restored = db.with_roles_of_this(server, name);
    assert_same_rows(db, &restored);
    let [before, after] = [db, &restored].map(|db| facts(db).without("database"));
    assert_same_facts(&before, &after);
}

#[test]
fn what_the_page_says_of_a_parallel_restore_is_enough_for_the_extension() {
    let (db, _) = lived_in("");
    let dump = dump(&db, DIRECTORY);
    restore_as_the_page_says(&db, &dump, &server_with_roles_of(&db));
}

#[test]
fn what_the_page_says_of_a_parallel_restore_is_enough_for_an_application() {
    let db = with_an_impatient_foreign_key();
    let dump = dump(&db, DIRECTORY);
    restore_as_the_page_says(&db, &dump, &server_with_roles_of(&db));
}

/// Such as grants, where their roles are not there.
#[test]
fn a_restore_that_loses_something_fails() {
    let (db, _) = lived_in("");
    let dump = dump(&db, DIRECTORY);
    let server = Cluster::start(&[]);
    for jobs in [1, 4] {
        let command = format!(
            "pg_restore --jobs={jobs} --clean --if-exists --create --dbname=postgres {dump}"
        );
        let answer = server.shell(&command);
        assert!(!answer.status.success());
        let complaint = String::from_utf8_lossy(&answer.stderr);
        let missing = format!("role \"{}\" does not exist", db.backend_role());
        assert!(complaint.contains(&missing), "{complaint}");
    }
}

/// pg_dump leaves out what it takes for a part of the extension: an update must not make the application's grants one.
#[test]
fn a_database_that_was_updated_is_dumped_whole() {
    let (db, application) = lived_in("VERSION '0.1.0'");
    db.sql("ALTER EXTENSION magic_link UPDATE");
    fill_newer_tables(&db);
    let dump = dump(&db, PLAIN);
    let server = server_with_roles_of(&db);
    psql_restores(&server, &dump);
    assert_restored(&db, &application, &server);
}

/// Another way to this version: a dump names none, so a newer server installs its own.
#[test]
fn a_dump_of_the_first_release_restores_into_this_version() {
    let (db, application) = lived_in("VERSION '0.1.0'");
    let dump = dump(&db, PLAIN);
    let server = server_with_roles_of(&db);
    psql_restores(&server, &dump);
    let restored = db.with_roles_of_this(&server, db.name());
    let current: bool = restored.value(
        "SELECT installed_version = default_version FROM pg_available_extensions WHERE name = 'magic_link'",
        &[],
    );
    assert!(current);
    assert_same_rows(&db, &restored);
    application.assert_goes_on(&restored);
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
