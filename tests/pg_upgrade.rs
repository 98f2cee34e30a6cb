//! pg_upgrade to the newest PostgreSQL: the database is the same afterwards, and links that were mailed before still work.
//! tools/test installs the extension into a newer server, and names it.

use std::env;
use std::path::PathBuf;

use magic_link_harness::{
    APPLICATION_SCHEMA, Application, Catalogue, Cluster, Database, Test, run_tests,
};

const SCHEMAS: &[&str] = &["magic_link", APPLICATION_SCHEMA];

const TESTS: &[Test] = &[(
    "an_upgraded_server_has_the_same_databases",
    an_upgraded_server_has_the_same_databases,
    there_is_a_newer_server,
)];

fn main() {
    run_tests(TESTS);
}

fn newer_programs() -> Option<PathBuf> {
    let pg_config = PathBuf::from(env::var_os("MAGIC_LINK_NEWER_PG_CONFIG")?);
    pg_config.parent().map(PathBuf::from)
}

fn there_is_a_newer_server() -> Result<(), String> {
    let programs = newer_programs();
    programs
        .map(drop)
        .ok_or_else(|| "no server is newer than this one".to_owned())
}

/// What is to be the same afterwards.
struct Before<'a> {
    db: Database<'a>,
    application: Application,
    rows: String,
}

impl<'a> Before<'a> {
    fn live(cluster: &'a Cluster, version: &str) -> Self {
        let db = Database::bare(cluster, "");
        db.sql(&format!("CREATE EXTENSION magic_link {version}"));
        Application::make_roles(&db);
        let application = Application::move_in(&db);
        let rows = db.rows(&db.columns(SCHEMAS));
        let dump = dump_of(&db);
        run(
            cluster,
            &format!("pg_dump --create --file={dump} {}", db.name()),
        );
        Self {
            db,
            application,
            rows,
        }
    }

    #[track_caller]
    fn assert_same(&self) {
        let rows = self.db.rows(&self.db.columns(SCHEMAS));
        assert!(rows == self.rows, "{rows}\nand before:\n{}", self.rows);
    }

    /// The objects are those of a dump that the newer server restores: it shows much of them otherwise than the older one.
    #[track_caller]
    fn assert_as_restored(&self) {
        let (cluster, name, dump) = (self.db.cluster(), self.db.name(), dump_of(&self.db));
        run(
            cluster,
            &format!("sed s/{name}/restored/ {dump} | psql -X -q -v ON_ERROR_STOP=1"),
        );
        let restored = self.db.with_roles_of_this(cluster, "restored");
        let difference = facts(&restored).difference("in a dump", &facts(&self.db), "upgraded");
        assert!(difference.is_empty(), "\n{difference}");
        assert_eq!(privileges(&restored), privileges(&self.db));
    }
}

fn dump_of(db: &Database) -> String {
    let dump = db.cluster().file(&format!("{}.dump", db.name()));
    dump.display().to_string()
}

#[track_caller]
fn run(cluster: &Cluster, command: &str) {
    let answer = cluster.shell(command);
    let complaint = String::from_utf8_lossy(&answer.stderr);
    assert!(answer.status.success(), "{command}:\n{complaint}");
}

fn facts(db: &Database) -> Catalogue {
    Catalogue::read(&mut db.superuser(), SCHEMAS).without_privileges()
}

/// Who may do what, whether by default or not.
fn privileges(db: &Database) -> Vec<String> {
    let query = "
        SELECT concat_ws(' ', o.name, p.grantee::regrole, p.privilege_type, p.is_grantable, p.grantor::regrole) AS privilege
          FROM (SELECT oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner)), pronamespace FROM pg_proc
                UNION ALL
                SELECT oid::regclass::text, coalesce(relacl, acldefault('r', relowner)), relnamespace FROM pg_class
                UNION ALL
                SELECT c.oid::regclass || '.' || a.attname, a.attacl, c.relnamespace
                  FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
                UNION ALL
                SELECT nspname, coalesce(nspacl, acldefault('n', nspowner)), oid FROM pg_namespace)
               AS o (name, acl, namespace), aclexplode(o.acl) AS p
         WHERE o.namespace::regnamespace::text = ANY ($1) ORDER BY 1";
    let rows = db
        .superuser()
        .query(query, &[&SCHEMAS])
        .expect("no catalogue");
    assert!(!rows.is_empty());
    rows.iter().map(|row| row.get(0)).collect()
}

/// Since its releases of November 2026 PostgreSQL keeps a version with each column, which pg_upgrade to a release before them
/// takes for an option of the column, and fails. Without it a column is as one of an older release.
const FORGET_VERSIONS: &str = "
    UPDATE pg_catalog.pg_attribute
       SET attoptions = nullif(ARRAY(SELECT o FROM unnest(attoptions) AS o WHERE o NOT LIKE 'pg\\_attver=%'), '{}')
     WHERE attoptions IS NOT NULL";

fn knows_versions_of_columns(cluster: &Cluster) -> bool {
    let pg_dump = newer_programs().expect("asked for before").join("pg_dump");
    cluster.succeeds_inside(&format!("grep -q pg_attver {}", pg_dump.display()))
}

fn forget_versions_of_columns(cluster: &Cluster) {
    let connect = |database: &str| cluster.connect(database, "postgres");
    let all = "SELECT datname FROM pg_database WHERE datallowconn";
    for row in connect("postgres").query(all, &[]).expect("no databases") {
        let mut superuser = connect(row.get(0));
        superuser
            .batch_execute(FORGET_VERSIONS)
            .expect("no catalogue");
    }
}

/// The server in whose folder we are, stopped in good order, becomes one of the newer version.
fn upgrade(cluster: &Cluster) {
    let old = env::var("PG_CONFIG").expect("PG_CONFIG");
    let old = old
        .strip_suffix("/pg_config")
        .expect("a program of the server's");
    let new = newer_programs().expect("asked for before");
    let (new, folder) = (new.display(), cluster.file(""));
    let folder = folder.display();
    for step in [
        "pg_ctl stop --wait --mode=fast --pgdata=data".to_owned(),
        // As the older one was made; until 18 it was the default to have none, and there was no such option.
        format!(
            "{new}/initdb --help | grep -q no-data-checksums && without=--no-data-checksums; \
             {new}/initdb --pgdata=new --username=postgres --auth=trust --no-sync --encoding=UTF8 --locale=C.UTF-8 $without"
        ),
        format!(
            "{new}/pg_upgrade --old-bindir={old} --new-bindir={new} --old-datadir=data --new-datadir=new \
             --username=postgres --socketdir={folder} || {{ grep -rihEA3 'error|fatal' new/pg_upgrade_output.d; false; }}"
        ),
        "cp data/postgresql.conf new/ && mv data old && mv new data".to_owned(),
        format!("{new}/pg_ctl start --wait --pgdata={folder}/data --log=log"),
    ] {
        cluster.run_inside(&step);
    }
}

fn version(cluster: &Cluster) -> i32 {
    let mut superuser = cluster.connect("postgres", "postgres");
    let query = "SELECT current_setting('server_version_num')::integer / 10000";
    superuser.query_one(query, &[]).expect("no version").get(0)
}

fn an_upgraded_server_has_the_same_databases() {
    let cluster = Cluster::start(&[]);
    let current = Before::live(&cluster, "");
    let first_release = Before::live(&cluster, "VERSION '0.1.0'");
    let before = version(&cluster);

    if !knows_versions_of_columns(&cluster) {
        forget_versions_of_columns(&cluster);
    }
    upgrade(&cluster);

    assert!(version(&cluster) > before);
    current.assert_same();
    current.assert_as_restored();
    current.application.assert_goes_on(&current.db);
    first_release.assert_same();
    first_release.db.sql("ALTER EXTENSION magic_link UPDATE");
    first_release.application.assert_goes_on(&first_release.db);
}
