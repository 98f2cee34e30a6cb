//! What a database says of its objects, as text that can be compared with another database's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use postgres::GenericClient;

/// The facts about the objects of some schemas, by object; see catalogue.sql.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue(BTreeMap<String, BTreeSet<String>>);

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
        let mut objects: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in rows {
            let facts = objects.entry(row.get("object")).or_default();
            facts.extend(lines(row.get("property"), row.get("value")));
        }
        Self(objects)
    }

    /// The facts about all other objects.
    #[must_use]
    pub fn without(mut self, object: &str) -> Self {
        self.0.remove(object);
        self
    }

    /// The facts but for who may do what, which has several spellings: what is granted by default need not be listed.
    #[must_use]
    pub fn without_privileges(mut self) -> Self {
        for facts in self.0.values_mut() {
            facts.retain(|fact| !fact.starts_with("privilege"));
        }
        self
    }

    /// What only one of the two has, with its name before it: an object, or a fact about one that both have. Nothing where
    /// they are the same.
    pub fn difference(&self, name: &str, other: &Self, others_name: &str) -> String {
        let mut difference = self.lines_that_lacks(other, name);
        difference.extend(other.lines_that_lacks(self, others_name));
        // What changed stands together.
        difference.sort();
        difference.into_iter().map(|(_, line)| line).collect()
    }

    /// Each with what it is to be sorted by.
    fn lines_that_lacks(&self, other: &Self, name: &str) -> Vec<(String, String)> {
        let mut lacking = Vec::new();
        for (object, facts) in &self.0 {
            match other.0.get(object) {
                None => lacking.push(object.clone()),
                Some(known) => lacking.extend(
                    facts
                        .difference(known)
                        .map(|fact| format!("{object}: {fact}")),
                ),
            }
        }
        lacking
            .into_iter()
            .map(|line| (line.clone(), format!("only {name}: {line}\n")))
            .collect()
    }
}

impl fmt::Display for Catalogue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (object, facts) in &self.0 {
            for fact in facts {
                writeln!(formatter, "{object}: {fact}")?;
            }
        }
        Ok(())
    }
}

/// A text of several lines, such as a function's body, keeps them, so that a difference shows the lines that differ.
fn lines(property: &str, value: &str) -> Vec<String> {
    match value.split('\n').collect::<Vec<_>>()[..] {
        [line] => vec![format!("{property}: {line}")],
        ref several => (1..)
            .zip(several)
            .map(|(number, line)| format!("{property}, line {number:03}: {line}"))
            .collect(),
    }
}
