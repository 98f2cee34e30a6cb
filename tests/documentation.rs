//! What the pages for users tell them to run, run as it stands there; that their tables and links are true; and that
//! SECURITY.md names tests that are.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use magic_link_harness::documentation::{block, examples, page, pages, root};
use magic_link_harness::{Cluster, Database};

/// The pages whose examples are run, and how many of them show an answer.
const PAGES: [(&str, usize); 7] = [
    ("README.md", 0),
    ("docs/functions.md", 14),
    ("docs/operations.md", 0),
    ("docs/orm-and-migrations.md", 1),
    ("docs/session-switch.md", 2),
    ("docs/settings.md", 1),
    ("docs/tables-and-views.md", 1),
];

#[test]
fn every_example_answers_as_its_page_says() {
    for (path, answers) in PAGES {
        assert_eq!(run_examples(path), answers, "answers in {path}");
    }
    let with_examples = pages().into_iter().filter(|path| {
        let text = page(path.to_str().expect("a name in UTF-8"));
        path.starts_with("docs") && !examples(&text).is_empty()
    });
    for path in with_examples {
        let is_run = |(run, _): &(&str, usize)| path == Path::new(run);
        assert!(PAGES.iter().any(is_run), "{} is not run", path.display());
    }
}

/// Runs a page's examples on a server of its own, in one session of psql, and answers how many showed an answer.
fn run_examples(path: &str) -> usize {
    const ROLES: &str =
        "CREATE ROLE app_backend LOGIN; SELECT magic_link.grant_backend('app_backend');";
    let text = page(path);
    let cluster = Cluster::start(&[]);
    // A page that begins with an empty database says so itself.
    let database = if text.contains("CREATE EXTENSION magic_link;") {
        Database::bare(&cluster, "")
    } else {
        let database = Database::of(&cluster);
        database.sql(ROLES);
        database
    };
    let examples = examples(&text);
    let mut script = String::from("SET TIME ZONE 'UTC';\n");
    for example in &examples {
        let role = match example.role.as_str() {
            "backend" => "app_backend",
            role => role,
        };
        // What has to succeed ends the session where it does not.
        let stop = if example.answer.is_none() { 1 } else { 0 };
        let statements = example.statements.replace(
            "-- From here on as the backend's role.",
            "\\connect - app_backend\n--",
        );
        script += &format!(
            "\\echo {BOUNDARY}\n\\connect - {role}\n\\set ON_ERROR_STOP {stop}\n{statements}\n"
        );
    }
    let command = format!(
        "psql --no-psqlrc --quiet --dbname {} 2>&1 <<'END_OF_SCRIPT'\n{script}\\echo {BOUNDARY}\nEND_OF_SCRIPT",
        database.name()
    );
    let printed = String::from_utf8(cluster.shell(&command).stdout).expect("psql prints UTF-8");
    let printed: Vec<&str> = printed.split(BOUNDARY).skip(1).collect();
    assert_eq!(printed.len(), examples.len() + 1, "{path}: {printed:#?}");
    let mut answers = 0;
    for (example, printed) in examples.iter().zip(printed) {
        let Some(answer) = &example.answer else {
            assert!(!printed.contains("ERROR:"), "{path}: {printed}");
            continue;
        };
        assert_eq!(
            without_chance(printed),
            without_chance(answer),
            "{path}, after {}",
            example.statements
        );
        answers += 1;
    }
    answers
}

const BOUNDARY: &str = "----- an example -----";

/// What psql prints, but for times, ids, tokens, and the width of columns.
fn without_chance(printed: &str) -> String {
    let line = |line: &str| {
        let words = line.split([' ', '|', '+']).filter(|word| !word.is_empty());
        let words = words.filter(|word| word.bytes().any(|byte| byte != b'-'));
        words.map(masked).collect::<Vec<_>>().join(" ")
    };
    let lines = printed.lines().map(line).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

fn masked(word: &str) -> String {
    let is_token =
        |part: &str| part.len() == 32 && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_uuid = |part: &str| part.len() == 36 && part.matches('-').count() == 4;
    let is_date = |part: &str| part.len() == 10 && part.matches('-').count() == 2;
    let is_time = |part: &str| {
        part.matches(':').count() == 2 && part.starts_with(|c: char| c.is_ascii_digit())
    };
    if is_uuid(word) || is_date(word) || is_time(word) {
        return "?".to_owned();
    }
    let parts = word.split_inclusive(['=', '&']).map(|part| {
        let bare = part.trim_end_matches(['=', '&']);
        if is_token(bare) {
            part.replace(bare, "?")
        } else {
            part.to_owned()
        }
    });
    parts.collect()
}

#[test]
fn the_ten_lines_of_the_readme_run() {
    let database = Database::new();
    let sql = block("README.md", "## Ten lines of SQL", "sql");
    let (dba, backend) = sql
        .split_once("-- From here on as the backend's role.")
        .expect("the roles change somewhere");
    let psql = |role: &str, script| database.cluster().psql(database.name(), role, script);
    psql("postgres", dba);
    let answers = psql(&database.backend_role(), &format!("--{backend}"));
    let answers: Vec<&str> = answers.lines().collect();
    let [link, outcome, redeemed] = answers[..] else {
        panic!("{answers:?}");
    };
    assert!(
        link.starts_with("https://app.example.com/sign-in?token="),
        "{link}"
    );
    assert_eq!(outcome, "ok");
    assert!(
        redeemed.contains(r#""status": "added", "roleIds": ["guest"]"#),
        "{redeemed}"
    );
}

#[test]
fn the_page_of_errors_has_the_table_of_refusals() {
    let rows = |heading: &str| -> Vec<Vec<String>> {
        let text = page("docs/errors.md");
        let (_, below) = text.split_once(heading).expect("no such heading");
        let table = below.lines().skip_while(|line| !line.starts_with("|---"));
        let cells = |line: &str| {
            let cells = line.trim_matches('|').split('|');
            cells
                .map(|cell| cell.trim().trim_matches('`').to_owned())
                .collect()
        };
        table
            .skip(1)
            .take_while(|line| line.starts_with('|'))
            .map(cells)
            .collect()
    };
    let refusals: Vec<_> = domain::refusal::all_reports().collect();
    let words: Vec<_> = refusals
        .iter()
        .map(|it| [it.sqlstate, it.message, it.hint.unwrap_or_default()])
        .collect();
    assert_eq!(rows("## Messages"), words);
    let of_redeeming = refusals.iter().filter(|it| it.outcome.is_some());
    let mut outcomes: Vec<_> = of_redeeming
        .map(|it| (it.sqlstate, it.outcome.unwrap()))
        .collect();
    outcomes.insert(0, ("–", "ok"));
    let rows = rows("## Refusals");
    let told: Vec<_> = rows.iter().map(|row| (&*row[0], &*row[1])).collect();
    assert_eq!(told, outcomes);
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut followed = 0;
    for path in pages() {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        let folder = path.parent().unwrap();
        for target in links(&text) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() {
                path.clone()
            } else {
                folder.join(file)
            };
            let place = root().join(&file);
            assert!(place.exists(), "{}: {target}", path.display());
            if !anchor.is_empty() {
                let anchors = anchors(&fs::read_to_string(place).unwrap());
                assert!(anchors.contains(anchor), "{}: {target}", path.display());
            }
            followed += 1;
        }
    }
    assert!(followed > 30, "only {followed} links were found");
}

/// The targets of a page's links and pictures, but for those with a scheme.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let after = text.split("](").skip(1);
    let targets = after.filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets.filter(|target| !target.contains("://"))
}

/// As code hosts make them of headings.
fn anchors(text: &str) -> HashSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn the_first_pages_are_short() {
    for path in ["README.md", "CONTRIBUTING.md"] {
        let lines = page(path).lines().count();
        assert!(lines <= 150, "{path} has {lines} lines");
    }
}

#[test]
fn the_drivers_programs_are_those_that_are_tested() {
    let text = page("docs/drivers.md");
    let (_, programs) = text.split_once("## The programs").expect("no programs");
    let mut shown = 0;
    for program in programs.split("\n### ").skip(1) {
        let (_, link) = program.split_once("](../").expect("no link");
        let (path, rest) = link.split_once(')').expect("no end of the link");
        let (_, code) = rest.split_once("```").expect("no code");
        let (_, code) = code.split_once('\n').expect("no language");
        let (code, _) = code.split_once("```").expect("no end of the code");
        assert_eq!(code, page(path), "{path}");
        shown += 1;
    }
    assert_eq!(shown, 8);
}

/// Tokens as they are after hours in which the mail became slow: how many of each hour
/// were issued, never used, or redeemed after how many seconds in the middle. All that were not used
/// have expired, however young the hour is that runs.
const SLOW_MAIL: &str = "
    INSERT INTO magic_link.one_time_tokens
           (id, token_hash, email, organization_ids, context, created_at, expires_at, consumed_at, consumed_by)
    SELECT rpad(lpad(to_hex((extract(epoch FROM t.at) * 1000)::bigint), 12, '0') || lpad(to_hex(t.n), 4, '0'), 32, '0')::uuid,
           sha256(concat(t.at, t.n)::bytea), CASE t.n WHEN h.adas THEN 'ada@example.com' ELSE t.n || '@example.com' END,
           '{}', '{}', t.at, t.at + CASE h.ago WHEN 0 THEN interval '1 microsecond' ELSE interval '10 minutes' END,
           CASE WHEN t.n > h.unused THEN t.at + interval '1 second' * (h.seconds + t.n - (h.unused + 1 + h.issued) / 2) END,
           CASE WHEN t.n > h.unused THEN 'somebody' END
      FROM (VALUES (3, 41, 2, 28, 1), (2, 37, 2, 31, 2), (1, 44, 33, 544, 17), (0, 9, 8, 571, NULL))
               AS h (ago, issued, unused, seconds, adas),
           LATERAL (SELECT n, date_trunc('hour', now()) - h.ago * interval '1 hour'
                             + CASE WHEN h.ago > 0 THEN n ELSE 0 END * interval '77 seconds' AS at
                      FROM generate_series(1, h.issued) AS n) AS t;";

/// What psql prints, but for the times.
fn without_times(printed: &str) -> String {
    let is_time = |word: &str| {
        word.len() == "2026-01-01".len() && word.matches('-').count() == 2
            || word.len() == "00:00:00+00".len() && word.matches(':').count() == 2
    };
    let line = |line: &str| {
        let words = line
            .split(' ')
            .map(|word| if is_time(word) { "?" } else { word });
        words.collect::<Vec<_>>().join(" ").trim_end().to_owned()
    };
    printed.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_transcript_is_what_psql_shows() {
    let database = Database::new();
    let transcript = block(
        "docs/operations.md",
        "## When users say that links do not work",
        "text",
    );
    let is_typed = |line: &&str| line.starts_with("app=>") || line.starts_with("app->");
    let typed: String = transcript
        .lines()
        .filter(is_typed)
        .map(|line| &line[5..])
        .collect();
    let shown: Vec<&str> = transcript.lines().filter(|line| !is_typed(line)).collect();

    // In one transaction, so that no hour begins between the tokens and the look at them.
    let script = format!(
        "BEGIN; SET TIME ZONE 'UTC'; {SLOW_MAIL}
         SET ROLE {}; \\pset tuples_only off \n\\pset format aligned \n{typed} COMMIT;",
        database.admin_role()
    );
    let printed = database
        .cluster()
        .psql(database.name(), "postgres", &script);

    assert_eq!(
        without_times(printed.trim_end()),
        without_times(shown.join("\n").trim_end())
    );
}

/// In each span of code that begins with a file's name: of that file. What follows without one is of the same.
#[test]
fn every_test_that_security_md_names_is_there() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let text = std::fs::read_to_string(format!("{root}/SECURITY.md")).unwrap();
    let promises = text
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains(".rs: "));
    let mut named = 0;
    for promise in promises {
        let backed_by = promise.rsplit(" | ").next().unwrap();
        let mut file = String::new();
        for span in backed_by.split('`').skip(1).step_by(2) {
            let test = span.split_once(": ").map_or(span, |(path, test)| {
                file = std::fs::read_to_string(format!("{root}/{path}")).expect(path);
                test
            });
            let declared = format!("fn {test}()");
            let (before, _) = file
                .split_once(&declared)
                .unwrap_or_else(|| panic!("no {test}"));
            let attributes = before.rsplit("\n}").next().unwrap();
            assert!(
                attributes.contains("#[test]")
                    || attributes.contains("proptest!")
                    // Of a program that lists its tests, since a machine may be unable to run some.
                    || file.contains(&format!("\"{test}\",")),
                "{test} is no test"
            );
            named += 1;
        }
    }
    let rows = text
        .split_once("|---|---|\n")
        .unwrap()
        .1
        .split_once("\n\n")
        .unwrap()
        .0
        .lines()
        .count();
    assert!(
        rows > 10 && named >= rows,
        "{named} tests back {rows} promises"
    );
}
