//! What a database says of its objects, as text that can be compared with another database's.

use std::collections::BTreeSet;
use std::fmt;

use postgres::GenericClient;

/// The facts about the objects of some schemas, one a line; see catalogue.sql.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue(BTreeSet<String>);

impl Catalogue {
    /// Reads it within the client's transaction, if there is one.
    pub fn read(client: &mut impl GenericClient, schemas: &[&str]) -> Self {
        // So that every name in a definition comes with its schema.
        client
            .batch_execute("SET search_path TO pg_catalog")
            .expect("no search_path");
        let rows = client
            .query(include_str!("catalogue.sql"), &[&schemas])
            .expect("no catalogue");
        let facts = rows.iter().flat_map(|row| {
            let (object, property): (&str, &str) = (row.get("object"), row.get("property"));
            lines(&format!("{object}: {property}"), row.get("value"))
        });
        Self(facts.collect())
    }

    /// The facts about all other objects.
    #[must_use]
    pub fn without(&self, object: &str) -> Self {
        let of_object = format!("{object}: ");
        let others = self.0.iter().filter(|fact| !fact.starts_with(&of_object));
        Self(others.cloned().collect())
    }

    /// The lines that only one of the two has, with its name before them; nothing where they are the same.
    pub fn difference(&self, name: &str, other: &Self, others_name: &str) -> String {
        let only = |name, lines: &Self, others: &Self| -> Vec<(String, String)> {
            let only = lines.0.difference(&others.0);
            only.map(|line| (line.clone(), format!("only {name}: {line}\n")))
                .collect()
        };
        let mut difference = only(name, self, other);
        difference.extend(only(others_name, other, self));
        // What changed stands together.
        difference.sort();
        difference.into_iter().map(|(_, line)| line).collect()
    }
}

impl fmt::Display for Catalogue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|line| writeln!(formatter, "{line}"))
    }
}

/// A text of several lines, such as a function's body, keeps them, so that a difference shows the lines that differ.
fn lines(fact: &str, value: &str) -> Vec<String> {
    match value.split('\n').collect::<Vec<_>>()[..] {
        [line] => vec![format!("{fact}: {line}")],
        ref several => (1..)
            .zip(several)
            .map(|(number, line)| format!("{fact}, line {number:03}: {line}"))
            .collect(),
    }
}
