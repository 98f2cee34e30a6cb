//! Values that nobody means well with, as the text that is cast to an argument's type: by type, so that a function of a type that
//! is not here fails the suite until somebody adds some.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand::seq::IndexedRandom;

/// What is really there, so that not all calls end at the first look.
#[derive(Default)]
pub struct Known {
    pub tokens: Vec<String>,
    pub emails: Vec<String>,
    pub ids: Vec<String>,
    /// Rows of one_time_tokens as text.
    pub rows: Vec<String>,
}

/// Bytes that need be no text; None is NULL.
pub fn value(kind: &str, known: &Known, random: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    if random.random_ratio(1, 16) {
        return None;
    }
    if random.random_ratio(1, 40) {
        return Some(bytes(random));
    }
    let text = match kind {
        "text" => text(known, random),
        "text[]" => array(known, random),
        "jsonb" => json(known, random),
        "integer" => one_of(INTEGERS, random),
        "interval" => one_of(INTERVALS, random),
        "uuid" => id(known, random),
        "regrole" => one_of(ROLES, random),
        "magic_link.one_time_tokens" => row(known, random),
        _ => panic!("hostile_values.rs has none of the type {kind}"),
    };
    Some(text.into_bytes())
}

const INTEGERS: &[&str] = &[
    "600",
    "1",
    "0",
    "-1",
    "60",
    "604800",
    "604801",
    "2147483647",
    "-2147483648",
    "2147483648",
    "1e3",
    "",
    "NaN",
];

const INTERVALS: &[&str] = &[
    "30 days",
    "1 year",
    "-1 day",
    "infinity",
    "-infinity",
    "178000000 years",
    "-178000000 years",
    "2147483647 months",
    "1 day -24 hours",
    "P1Y2M3DT4H5M6S",
    "9223372036854775807 us",
    "",
    "yesterday",
];

/// Roles that lose nothing by it.
const ROLES: &[&str] = &[
    "victim",
    "\"Victim's \\ \"\"role\"\"\"",
    "-",
    "0",
    "4294967295",
    "99999999999",
    "no such role",
    "",
    "pg_monitor",
    "PUBLIC",
];

const TEXTS: &[&str] = &[
    "",
    " ",
    "'",
    "''",
    "\"",
    "\\",
    "\\'",
    "$1",
    "$$",
    "--",
    "/*",
    ";",
    "%s%n%x",
    "{}",
    "%00",
    "\u{feff}",
    "\u{fffe}",
    "\u{ffff}",
    "\u{10ffff}",
    "\u{e000}",
    "\u{202e}gro.elpmaxe@ada",
    "\u{200d}",
    "ﷺ",
    "İ",
    "ß",
    "a\u{300}\u{301}\u{302}",
    "null",
    "NULL",
    "-1",
    "SignIn",
    "Register",
    "ForgotPassword",
    "login none",
    "select_account",
    "https://app.example.com/sign-in?a=1#b",
    "mailto:a@b.example",
    "token",
    "email",
    "'; DROP TABLE magic_link.users; --",
    "pg_temp",
    "\u{1}",
    "\u{7f}",
    "\u{80}",
    "\u{9f}",
    "\r\nBcc: eve@example.com",
];

fn one_of(values: &[&str], random: &mut ChaCha8Rng) -> String {
    values
        .choose(random)
        .copied()
        .unwrap_or_default()
        .to_owned()
}

fn known_one(values: &[String], random: &mut ChaCha8Rng) -> String {
    values.choose(random).cloned().unwrap_or_default()
}

/// Of any bytes, or of such as begin a character that does not end.
fn bytes(random: &mut ChaCha8Rng) -> Vec<u8> {
    let length = random.random_range(1..40);
    (0..length)
        .map(|_| {
            *[random.random(), b'a', b'@', 0xC3, 0xED, 0xF4]
                .choose(random)
                .unwrap_or(&0)
        })
        .collect()
}

/// Any characters but the one that PostgreSQL has not.
fn characters(random: &mut ChaCha8Rng) -> String {
    let length = random.random_range(1..40);
    let ends = [0x80, 0x250, 0x3000, 0x11_0000];
    (0..length)
        .filter_map(|_| {
            let end = *ends.choose(random)?;
            char::from_u32(random.random_range(1..end))
        })
        .collect()
}

fn text(known: &Known, random: &mut ChaCha8Rng) -> String {
    match random.random_range(0..12) {
        0..3 => known_one(&known.tokens, random),
        3..6 => known_one(&known.emails, random),
        6 => altered(&known_one(&known.tokens, random), random),
        7 => altered(&known_one(&known.emails, random), random),
        8 => characters(random),
        9 => format!("{}@{}", characters(random), characters(random)),
        10 if random.random_ratio(1, 50) => characters(random).repeat(50_000),
        _ => one_of(TEXTS, random),
    }
}

/// With a character more, fewer, or another one.
fn altered(text: &str, random: &mut ChaCha8Rng) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    let place = random.random_range(0..=characters.len());
    let other = char::from_u32(random.random_range(1..0x500)).unwrap_or('?');
    match random.random_range(0..3) {
        0 => characters.insert(place, other),
        1 => characters.truncate(place),
        _ => characters
            .iter_mut()
            .skip(place)
            .take(1)
            .for_each(|c| *c = other),
    }
    characters.into_iter().collect()
}

fn array(known: &Known, random: &mut ChaCha8Rng) -> String {
    const ARRAYS: &[&str] = &[
        "{}",
        "{NULL}",
        "{{a@b.example,c@d.example},{e@f.example,g@h.example}}",
        "[5:6]={a@b.example,c@d.example}",
        "{a@b.example",
        "{\"\"}",
        "[2147483646:2147483647]={a@b.example,c@d.example}",
        "{a@b.example,A@B.EXAMPLE}",
        "{a@b.example,NULL}",
    ];
    if random.random_ratio(1, 2) {
        return one_of(ARRAYS, random);
    }
    let count = if random.random_ratio(1, 100) { 2000 } else { 4 };
    let quoted =
        |element: String| format!("\"{}\"", element.replace('\\', "\\\\").replace('"', "\\\""));
    let elements: Vec<String> = (0..count)
        .map(|number| match random.random_range(0..40) {
            0 => quoted(text(known, random)),
            _ => format!("{number}.{}@example.com", random.random_range(0..1_000_000)),
        })
        .collect();
    format!("{{{}}}", elements.join(","))
}

fn json(known: &Known, random: &mut ChaCha8Rng) -> String {
    const VALUES: &[&str] = &[
        "null",
        "true",
        "0",
        "-0.0",
        "1e400",
        "1e-400",
        "\"\"",
        "\"a\"",
        "\"\\ud800\"",
        "\"\\udc00\\ud800\"",
        "\"\\u0000\"",
        "\"\\ud83d\\ude00\"",
        "[]",
        "{}",
        "[null]",
        "[\"acme\"]",
        "[\"acme\",\"acme\"]",
        "[\"\"]",
        "[1]",
        "[[\"acme\"]]",
        "{\"acme\":[]}",
        "{\"acme\":[\"member\"]}",
        "{\"acme\":null}",
        "{\"\":[\"member\"]}",
        "{\"gone\":[\"member\"]}",
        "\"SignIn\"",
        "\"Register\"",
        "[\"gone\"]",
        "{\"acme\":[\"gone\"]}",
        "nul",
        "\"\u{1}\"",
        "'a'",
        "1e400000",
    ];
    const KEYS: &[&str] = &[
        "jitOrganizationIds",
        "organizationRoleIds",
        "interactionEvent",
        "name",
        "",
        "\\u0061",
        "token",
        "email",
    ];
    match random.random_range(0..10) {
        0 => one_of(VALUES, random),
        1 => {
            let depth = *[10, 1000, 6000, 60_000].choose(random).unwrap_or(&1);
            format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth))
        }
        2 => {
            let text = serde_json::Value::String(text(known, random));
            format!("{{\"a\":{text},\"interactionEvent\":{text}}}")
        }
        3 if random.random_ratio(1, 5) => {
            let ids: Vec<String> = (0..random.random_range(90..3000))
                .map(|id| format!("\"{id}\""))
                .collect();
            format!("{{\"jitOrganizationIds\":[{}]}}", ids.join(","))
        }
        4..6 => "{\"jitOrganizationIds\":[\"acme\"]}".to_owned(),
        _ => {
            let pairs: Vec<String> = (0..random.random_range(0..4))
                .map(|_| format!("\"{}\":{}", one_of(KEYS, random), one_of(VALUES, random)))
                .collect();
            format!("{{{}}}", pairs.join(","))
        }
    }
}

fn id(known: &Known, random: &mut ChaCha8Rng) -> String {
    const IDS: &[&str] = &[
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}",
        "a0eebc99",
        "",
    ];
    match random.random_range(0..4) {
        0 => one_of(IDS, random),
        1 => altered(&known_one(&known.ids, random), random),
        _ => known_one(&known.ids, random),
    }
}

fn row(known: &Known, random: &mut ChaCha8Rng) -> String {
    const ROWS: &[&str] = &["()", "(,,,,,,,,,,,,,,,)", "(,,,,,,,,,,,,,,)", "(", "(1)"];
    match random.random_range(0..3) {
        0 => one_of(ROWS, random),
        1 => altered(&known_one(&known.rows, random), random),
        _ => known_one(&known.rows, random),
    }
}
