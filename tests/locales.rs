//! One address is one user, in every locale, collation and client encoding: the extension does not depend on the locale.

use std::error::Error as StdError;
use std::sync::OnceLock;

use magic_link_harness::postgres::Client;
use magic_link_harness::postgres::types::private::BytesMut;
use magic_link_harness::postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use magic_link_harness::{
    Calls, Cluster, Database, ExpectSqlState, Test, no_requirement, run_tests,
};

type AnyError = Box<dyn StdError + Sync + Send>;

const ACME: &str = r#"{"jitOrganizationIds": ["acme"]}"#;

/// What people type, and its normal form.
const ADDRESSES: &[(&str, &str)] = &[
    // Where I is the capital of ı, and İ that of i.
    ("I@EXAMPLE.COM", "i@example.com"),
    ("TITLE@TITLE.EXAMPLE", "title@title.example"),
    ("İ@EXAMPLE.COM", "İ@example.com"),
    ("ı@example.com", "ı@example.com"),
    ("a@İSTANBUL.example", "a@xn--istanbul-o0e.example"),
    ("a@ısparta.example", "a@xn--sparta-o9a.example"),
    ("a@ISPARTA.example", "a@isparta.example"),
    // Where two letters are the capital of one.
    ("STRASSE@EXAMPLE.COM", "strasse@example.com"),
    ("straße@example.com", "straße@example.com"),
    ("STRAẞE@example.com", "straẞe@example.com"),
    ("a@straße.example", "a@xn--strae-oqa.example"),
    ("a@STRAẞE.example", "a@xn--strae-oqa.example"),
    ("a@STRASSE.example", "a@strasse.example"),
    // Where a letter looks otherwise at the end of a word.
    ("σίσυφος@example.com", "σίσυφος@example.com"),
    ("ΣΊΣΥΦΟΣ@example.com", "ΣΊΣΥΦΟΣ@example.com"),
    ("a@βόλος.example", "a@xn--nxasmm1c.example"),
    ("a@ΒΌΛΟΣ.example", "a@xn--nxasmq6b.example"),
    // One letter, or a letter and its accent.
    ("j\u{f6}rg@ex\u{e4}mple.org", "j\u{f6}rg@xn--exmple-cua.org"),
    ("a@exa\u{308}mple.org", "a@xn--exmple-cua.org"),
    // Letters that are others, but for their width or their meaning.
    ("ＡＤＡ@ＥＸＡＭＰＬＥ.ＣＯＭ", "ＡＤＡ@example.com"),
    ("\u{212a}@\u{212a}elvin.example", "\u{212a}@kelvin.example"),
    ("K@KELVIN.EXAMPLE", "k@kelvin.example"),
    // Which dictionaries take for one, or sort otherwise than by their bytes.
    ("cote@example.com", "cote@example.com"),
    ("coté@example.com", "coté@example.com"),
    ("côte@example.com", "côte@example.com"),
    ("co.te@example.com", "co.te@example.com"),
    ("co-te@example.com", "co-te@example.com"),
];

/// An accent of its own before the @ is refused, so that no mailbox has two spellings that look the same.
const REFUSED: &[&str] = &["i\u{307}@example.com", "jo\u{308}rg@example.org"];

/// In its own words, options of CREATE DATABASE; from which version of the server on.
const LOCALES: &[(&str, i32)] = &[
    ("LOCALE 'C.UTF-8'", 15),
    ("LOCALE 'C'", 15),
    ("LOCALE 'POSIX'", 15),
    ("LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'", 15),
    (
        "LOCALE 'C.UTF-8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'",
        17,
    ),
    (
        "LOCALE 'C.UTF-8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'PG_UNICODE_FAST'",
        18,
    ),
];

const ICU_LOCALES: &[&str] = &[
    "und",
    "tr-TR",
    "az",
    "de-u-co-phonebk",
    "fr-CA",
    // As much alike as may be: neither case nor accents nor punctuation count, nor the width of letters.
    "und-u-ks-level1-ka-shifted",
];

const TESTS: &[Test] = &[
    (
        "one_address_is_one_user",
        one_address_is_one_user,
        no_requirement,
    ),
    (
        "one_address_is_one_user_by_icu",
        one_address_is_one_user_by_icu,
        server_has_icu,
    ),
    (
        "one_address_is_one_user_in_turkish",
        one_address_is_one_user_in_turkish,
        server_speaks_turkish,
    ),
    (
        "a_collation_of_the_callers_changes_nothing",
        a_collation_of_the_callers_changes_nothing,
        server_has_icu,
    ),
    (
        "a_column_of_another_collation_is_found_in",
        a_column_of_another_collation_is_found_in,
        server_has_icu,
    ),
    ("only_utf8_will_do", only_utf8_will_do, no_requirement),
    (
        "only_utf8_will_do_in_turkish",
        only_utf8_will_do_in_turkish,
        server_speaks_turkish,
    ),
    (
        "an_address_is_the_same_in_every_clients_encoding",
        an_address_is_the_same_in_every_clients_encoding,
        no_requirement,
    ),
    (
        "what_a_client_cannot_read_is_not_done",
        what_a_client_cannot_read_is_not_done,
        no_requirement,
    ),
    (
        "what_is_no_text_in_the_clients_encoding_is_refused",
        what_is_no_text_in_the_clients_encoding_is_refused,
        no_requirement,
    ),
    (
        "a_setting_of_the_connections_may_be_no_text",
        a_setting_of_the_connections_may_be_no_text,
        no_requirement,
    ),
    (
        "a_role_may_be_no_text",
        a_role_may_be_no_text,
        no_requirement,
    ),
];

fn main() {
    run_tests(TESTS);
}

fn server_has_icu() -> Result<(), String> {
    Cluster::shared()
        .connect("postgres", "postgres")
        .batch_execute("CREATE COLLATION pg_temp.probe (provider = icu, locale = 'und')")
        .map_err(|_| "this server was built without ICU".to_owned())
}

/// A cluster that knows the C library's Turkish, which few machines have: it is made from its source.
fn turkish() -> &'static Result<Cluster, String> {
    static TURKISH: OnceLock<Result<Cluster, String>> = OnceLock::new();
    TURKISH.get_or_init(|| {
        let cluster = Cluster::start(&[]);
        let locales = cluster.file("locales").display().to_string();
        let compile = |charset: &str| {
            format!("localedef --no-archive -c -i tr_TR -f {charset} {locales}/tr_TR.{charset}")
        };
        // It warns of what the source leaves open, and then ends with 1.
        let [utf8, latin5] = ["UTF-8", "ISO-8859-9"].map(compile);
        cluster.run_inside(&format!("mkdir {locales}; {utf8}; {latin5}; :"));
        let data = cluster.file("data").display().to_string();
        cluster.run_inside(&format!(
            "LOCPATH={locales} pg_ctl restart --wait --pgdata={data} --log=log"
        ));
        let probe = "CREATE DATABASE probe TEMPLATE template0 LOCALE 'tr_TR.UTF-8'";
        let probed = cluster.connect("postgres", "postgres").batch_execute(probe);
        match probed {
            Ok(()) => Ok(cluster.until_exit()),
            Err(_) => Err("this machine has no locale tr_TR, nor its source".to_owned()),
        }
    })
}

fn server_speaks_turkish() -> Result<(), String> {
    turkish().as_ref().map(drop).map_err(Clone::clone)
}

fn turkish_cluster() -> &'static Cluster {
    turkish().as_ref().expect("asked for before")
}

fn one_address_is_one_user() {
    let version = Cluster::shared()
        .connect("postgres", "postgres")
        .query_one(
            "SELECT current_setting('server_version_num')::integer / 10000",
            &[],
        )
        .unwrap();
    let version: i32 = version.get(0);
    for (locale, _) in LOCALES.iter().filter(|(_, since)| *since <= version) {
        assert_one_user_each(Cluster::shared(), locale);
    }
}

fn one_address_is_one_user_by_icu() {
    for locale in ICU_LOCALES {
        let options = format!("LOCALE 'C.UTF-8' LOCALE_PROVIDER icu ICU_LOCALE '{locale}'");
        assert_one_user_each(Cluster::shared(), &options);
    }
}

fn one_address_is_one_user_in_turkish() {
    assert_one_user_each(turkish_cluster(), "LOCALE 'tr_TR.UTF-8'");
    let lower: String = turkish_cluster()
        .connect("probe", "postgres")
        .query_one("SELECT lower('I')", &[])
        .unwrap()
        .get(0);
    assert_eq!(lower, "ı", "this is not Turkish");
}

#[track_caller]
fn assert_one_user_each(cluster: &Cluster, locale: &str) {
    let db = Database::made_with(
        cluster,
        &format!("TEMPLATE template0 ENCODING 'UTF8' {locale}"),
    );
    db.organization("acme", &["TITLE", "title", "tıtle"]);
    let mut backend = db.backend();
    for (typed, normal) in ADDRESSES {
        let normalized: String = backend
            .query_one("SELECT magic_link.normalize_email($1)", &[typed])
            .unwrap_or_else(|error| panic!("{typed} {locale}: {error:?}"))
            .get(0);
        assert_eq!(normalized, *normal, "{locale}");
        let token = backend.create(typed, ACME).unwrap();
        assert_eq!(token.email, *normal, "{locale}");
        let decision = backend.decide(&token.token, normal, Some(typed), Some("LOGIN LOGİN"));
        assert_eq!(
            decision.unwrap(),
            ("redeem".to_owned(), None),
            "{typed} {locale}"
        );
        let redeemed = backend.redeem(&token.token, typed).unwrap();
        assert_eq!(redeemed.email, *normal, "{locale}");
        assert_eq!(
            redeemed.memberships[0]["roleIds"].as_array().unwrap().len(),
            3
        );

        let again = backend.create(normal, ACME).unwrap();
        let again = backend
            .redeem(&again.token, &typed.to_ascii_uppercase())
            .unwrap();
        assert_eq!(
            (again.user_created, again.user_id),
            (false, redeemed.user_id)
        );
        db.superuser()
            .execute(
                "INSERT INTO magic_link.users (email) VALUES ($1)",
                &[normal],
            )
            .expect_sqlstate("23505");
    }

    for typed in REFUSED {
        backend.create(typed, ACME).expect_sqlstate("22023");
    }

    let mut normal: Vec<_> = ADDRESSES.iter().map(|(_, normal)| *normal).collect();
    normal.sort_unstable();
    normal.dedup();
    for plan in [
        "enable_seqscan",
        "enable_indexscan, enable_indexonlyscan, enable_bitmapscan",
    ] {
        let mut reader = db.superuser();
        for way in plan.split(", ") {
            reader.batch_execute(&format!("SET {way} = off")).unwrap();
        }
        for email in &normal {
            let found = |reader: &mut Client, table: &str| -> i64 {
                let query = format!("SELECT count(*) FROM magic_link.{table} WHERE email = $1");
                reader.query_one(&query, &[email]).unwrap().get(0)
            };
            assert_eq!(
                found(&mut reader, "users"),
                1,
                "{email} {locale} without {plan}"
            );
            let twice = 2 * ADDRESSES
                .iter()
                .filter(|(_, normal)| normal == email)
                .count();
            assert_eq!(
                found(&mut reader, "one_time_tokens"),
                twice as i64,
                "{email} {locale}"
            );
        }
        let sorted = reader.query("SELECT email FROM magic_link.users ORDER BY email", &[]);
        let sorted = sorted.unwrap();
        let sorted: Vec<&str> = sorted.iter().map(|row| row.get(0)).collect();
        assert_eq!(sorted, normal, "{locale} without {plan}");
    }

    // Whom a limit counts, and whom a DBA finds.
    db.set("max_active_tokens", 1);
    let mut backend = db.backend();
    backend.create("TITLE@title.example", ACME).unwrap();
    backend.create("title@TİTLE.example", ACME).unwrap();
    backend
        .create("Title@TITLE.example", ACME)
        .expect_sqlstate("OT008");
    let mut admin = db.admin();
    assert_eq!(
        admin.revoke_all("tITLE@TITLE.EXAMPLE", None).unwrap(),
        1,
        "{locale}"
    );
}

/// A database is deterministic; a caller may bring what is not.
fn a_collation_of_the_callers_changes_nothing() {
    let db = Database::new();
    db.sql(
        "CREATE COLLATION public.alike (provider = icu, locale = 'und-u-ks-level1', deterministic = false)",
    );
    let mut backend = db.backend();
    let token: String = backend
        .query_one(
            "SELECT token FROM magic_link.create_one_time_token('Cote@example.com' COLLATE public.alike)",
            &[],
        )
        .unwrap()
        .get(0);
    let redeem = "SELECT email FROM magic_link.redeem_one_time_token(
                      $1::text COLLATE public.alike, $2::text COLLATE public.alike)";
    let mut redeem = |email| backend.query_one(redeem, &[&token, &email]);
    redeem("coté@example.com").expect_sqlstate("OT002");
    let redeemed: String = redeem("COTE@example.com").unwrap().get(0);
    assert_eq!(redeemed, "cote@example.com");
}

/// Ids are compared as bytes: an index in the order of some language is of no use for that.
fn a_column_of_another_collation_is_found_in() {
    let db = Database::new();
    for id in ["B", "a", "c"] {
        db.organization(id, &["member"]);
    }
    let issued = db
        .backend()
        .create(
            "ada@example.com",
            r#"{"jitOrganizationIds": ["B", "a", "c"]}"#,
        )
        .unwrap();
    db.sql("ALTER TABLE magic_link.organizations ALTER id TYPE text COLLATE \"und-x-icu\"");
    let redeemed = db
        .backend()
        .redeem(&issued.token, "ada@example.com")
        .unwrap();
    let joined = redeemed.memberships.as_array().unwrap();
    assert_eq!(joined.len(), 3);
    assert!(
        joined.iter().all(|one| one["status"] == "added"),
        "{joined:?}"
    );
    assert_eq!(db.count("magic_link.organization_memberships"), 3);
}

/// The server finds the script's "…" invalid in these before it runs it; in the others the script says what is wrong.
const FOREIGN: &[&str] = &["EUC_JP", "EUC_KR"];

fn only_utf8_will_do() {
    for encoding in [
        "SQL_ASCII",
        "LATIN1",
        "LATIN5",
        "WIN1252",
        "WIN1254",
        "KOI8R",
    ] {
        assert_only_utf8_will_do(Cluster::shared(), encoding, "C", "0A000");
    }
    for encoding in FOREIGN {
        assert_only_utf8_will_do(Cluster::shared(), encoding, "C", "22021");
    }
}

fn only_utf8_will_do_in_turkish() {
    assert_only_utf8_will_do(turkish_cluster(), "LATIN5", "tr_TR.ISO-8859-9", "0A000");
}

#[track_caller]
fn assert_only_utf8_will_do(cluster: &Cluster, encoding: &str, locale: &str, code: &str) {
    let options = format!("TEMPLATE template0 ENCODING '{encoding}' LOCALE '{locale}'");
    let db = Database::bare(cluster, &options);
    let error = db
        .superuser()
        .batch_execute("CREATE EXTENSION magic_link")
        .expect_sqlstate(code);
    if code == "0A000" {
        assert_eq!(error.message(), "magic_link needs a database in UTF8");
        let detail = error.detail().unwrap_or_default();
        assert!(detail.contains(&format!("in {encoding},")), "{detail}");
    }
    assert_eq!(db.count("pg_namespace WHERE nspname = 'magic_link'"), 0);
}

/// Text in the client's encoding, whatever that is.
#[derive(Debug, PartialEq)]
struct Encoded(Vec<u8>);

impl ToSql for Encoded {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TEXT
    }

    to_sql_checked!();
}

impl FromSql<'_> for Encoded {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, AnyError> {
        Ok(Self(raw.to_vec()))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TEXT
    }
}

/// SQL_ASCII takes and gives bytes as they are.
fn encode(db: &Database, text: &str, encoding: &str) -> Encoded {
    if encoding == "SQL_ASCII" {
        return Encoded(text.as_bytes().to_vec());
    }
    Encoded(db.value("SELECT convert_to($1, $2)", &[&text, &encoding]))
}

fn backend_in(db: &Database, encoding: &str) -> Client {
    let mut backend = db.backend();
    backend
        .batch_execute(&format!("SET client_encoding = '{encoding}'"))
        .unwrap();
    backend
}

fn an_address_is_the_same_in_every_clients_encoding() {
    let db = Database::new();
    let (typed, normal) = ("Jörg@Exämple.org", "jörg@xn--exmple-cua.org");
    for encoding in ["UTF8", "LATIN1", "SQL_ASCII", "WIN1252", "EUC_JP", "LATIN9"] {
        let mut backend = backend_in(&db, encoding);
        let (typed, normal_there) = (encode(&db, typed, encoding), encode(&db, normal, encoding));
        let issued = backend
            .query_one(
                "SELECT token, email FROM magic_link.create_one_time_token($1)",
                &[&typed],
            )
            .unwrap();
        let token: String = issued.get("token");
        assert_eq!(
            issued.get::<_, Encoded>("email"),
            normal_there,
            "{encoding}"
        );
        let redeemed = backend
            .query_one(
                "SELECT email FROM magic_link.redeem_one_time_token($1, $2)",
                &[&token, &typed],
            )
            .unwrap();
        assert_eq!(
            redeemed.get::<_, Encoded>("email"),
            normal_there,
            "{encoding}"
        );
    }
    let users: Vec<String> = db.value("SELECT array_agg(email) FROM magic_link.users", &[]);
    assert_eq!(users, [normal]);
    let consumed =
        format!("magic_link.one_time_tokens WHERE email = '{normal}' AND consumed_at IS NOT NULL");
    assert_eq!(db.count(&consumed), 6);
}

/// Whoever cannot be told of it would not know that it was done; somebody else can still do it.
fn what_a_client_cannot_read_is_not_done() {
    let db = Database::new();
    let (normal, name) = ("łukasz@example.org", r#"{"name": "Łukasz"}"#);
    let ada = db.backend().create("ada@example.org", name).unwrap();
    let before = db.contents();

    for encoding in ["LATIN1", "WIN1252", "KOI8R"] {
        let mut backend = backend_in(&db, encoding);
        let email = "U&'\\0142ukasz@example.org'";
        for create in [
            format!("create_one_time_token({email})"),
            format!("create_one_time_tokens(ARRAY['ada@example.org', {email}])"),
        ] {
            let create = format!("SELECT token, email FROM magic_link.{create}");
            backend.query(&create, &[]).expect_sqlstate("22P05");
        }
        backend
            .redeem(&ada.token, &ada.email)
            .expect_sqlstate("22P05");
        backend
            .try_redeem_in(None, &ada.token, &ada.email)
            .expect_sqlstate("22P05");
        assert_eq!(db.contents(), before, "{encoding}");
        // What it can be told it is told.
        assert_eq!(
            backend.check_in(None, &ada.token, &ada.email).unwrap(),
            "ok"
        );
    }

    let mut backend = db.backend();
    assert_eq!(
        backend.redeem(&ada.token, &ada.email).unwrap().context,
        name
    );
    assert_eq!(
        backend.create("Łukasz@example.org", "{}").unwrap().email,
        "Łukasz@example.org"
    );
    assert_eq!(backend.create(normal, "{}").unwrap().email, normal);
}

fn what_is_no_text_in_the_clients_encoding_is_refused() {
    let db = Database::new();
    let before = db.contents();
    for (encoding, bytes) in [
        ("UTF8", &b"j\xf6rg@example.org"[..]),
        ("SQL_ASCII", b"j\xf6rg@example.org"),
        // A slash in too many bytes, a surrogate, and what lies beyond Unicode.
        ("UTF8", b"\xc0\xaf@example.org"),
        ("UTF8", b"\xed\xa0\x80@example.org"),
        ("UTF8", b"\xf4\x90\x80\x80@example.org"),
        ("EUC_JP", b"j\x8f\xff\xffrg@example.org"),
        ("UTF8", b"ada\0@example.org"),
    ] {
        let mut backend = backend_in(&db, encoding);
        let create = "SELECT token FROM magic_link.create_one_time_token($1)";
        let create = backend.query(create, &[&Encoded(bytes.to_vec())]);
        create.expect_sqlstate("22021");
    }
    assert_eq!(db.contents(), before);
}

/// What a client asks for as it connects is converted from no encoding and looked at by nobody, and current_setting() hands it
/// on: whoever takes it for text reads past its end.
fn a_setting_of_the_connections_may_be_no_text() {
    let db = Database::new();
    let issued = db.backend().create("jörg@example.org", "{}").unwrap();
    let (token, email) = (&issued.token, &issued.email);
    let before = db.contents();
    for (call, code) in [
        ("normalize_email(typed)", "22021"),
        ("create_one_time_token(typed)", "22021"),
        (
            "create_one_time_tokens(ARRAY['ada@example.org', typed])",
            "22021",
        ),
        (
            "create_one_time_token('ada@example.org', 60, jsonb_build_object('name', typed))",
            "22021",
        ),
        (
            "create_one_time_token('ada@example.org', 60, jsonb_build_object(typed, 1))",
            "22021",
        ),
        ("one_time_token_id(typed)", "22021"),
        (&format!("check_one_time_token(typed, '{email}')"), "22021"),
        (&format!("redeem_one_time_token('{token}', typed)"), "22021"),
        (
            &format!("try_redeem_one_time_token('{token}', '{email}', typed)"),
            "22021",
        ),
        (
            &format!("session_switch_decision('{token}', '{email}', typed)"),
            "22021",
        ),
        (
            &format!("session_switch_decision('{token}', '{email}', '', typed)"),
            "22021",
        ),
        (
            &format!("compose_magic_link(typed, '{token}', '{email}')"),
            "22021",
        ),
        (
            &format!(
                "compose_magic_link('https://a.example', '{token}', '{email}', '{{}}', typed)"
            ),
            "22021",
        ),
        // The setting that has the typed address is ours.
        ("session_switch", "22021"),
        (
            &format!("session_switch_decision('{token}', '{email}')"),
            "22023",
        ),
    ] {
        let query = format!(
            "SELECT * FROM (SELECT current_setting('magic_link.session_email') AS typed) AS t, magic_link.{call}"
        );
        assert_eq!(code_with_bad_setting(&db, &query), code, "{query}");
    }
    assert_eq!(db.contents(), before);
}

/// What an application wrote into the directory in that way stops those whom it concerns, and nothing else.
fn a_role_may_be_no_text() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    let mut backend = db.backend();
    let issued = backend.create("ada@example.org", ACME).unwrap();
    let answer = with_bad_setting(
        &db,
        "postgres",
        "INSERT INTO magic_link.organization_roles VALUES (current_setting('magic_link.session_email'), 'bad');
         INSERT INTO magic_link.organization_jit_roles SELECT 'acme', id FROM magic_link.organization_roles WHERE name = 'bad'",
    );
    assert_eq!(answer, "");

    backend
        .redeem(&issued.token, &issued.email)
        .expect_sqlstate("22021");
    assert_eq!(
        (db.status_of(&issued), db.count("magic_link.users")),
        ("active".to_owned(), 0)
    );

    db.sql("DELETE FROM magic_link.organization_roles WHERE name = 'bad'");
    backend.redeem(&issued.token, &issued.email).unwrap();
}

#[track_caller]
fn code_with_bad_setting(db: &Database, query: &str) -> String {
    let answer = with_bad_setting(db, &db.backend_role(), query);
    let code = answer.strip_prefix("ERROR:  ");
    code.unwrap_or_else(|| panic!("{query}: {answer}"))
        .to_owned()
}

/// What psql complains of, to a role whose session_email has a byte that begins a character and is the last.
fn with_bad_setting(db: &Database, role: &str, query: &str) -> String {
    let name = db.name();
    let answer = db.cluster().shell(&format!(
        "PGOPTIONS=$(printf -- '-c magic_link.session_email=j@example.org\\366') \
         psql -X -q -v VERBOSITY=sqlstate -d {name} -U {role} -c \"{query}\""
    ));
    String::from_utf8_lossy(&answer.stderr).trim().to_owned()
}
