//! The pages for users, README.md and those of docs/, so that what they tell people to run is what the tests run.

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A page's text, by its path from the root.
#[track_caller]
pub fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The first block of a language below a heading of a page.
#[track_caller]
pub fn block(path: &str, heading: &str, language: &str) -> String {
    let text = page(path);
    let (_, below) = text.split_once(heading).expect("no such heading");
    let (_, block) = below
        .split_once(&format!("```{language}\n"))
        .expect("no such block");
    let (block, _) = block.split_once("```").expect("no end of the block");
    block.to_owned()
}

/// All pages in Markdown, by their paths from the root.
pub fn pages() -> Vec<PathBuf> {
    let mut pages = vec![];
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder that cannot be read") {
            let entry = entry.expect("an entry that cannot be read");
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() && name != "target" && name != "node_modules" && !hidden(&name) {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let below = path.strip_prefix(root()).expect("it is below the root");
                pages.push(below.to_owned());
            }
        }
    }
    pages.sort();
    pages
}

fn hidden(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().starts_with('.')
}

/// Statements of a page, and what it says that psql answers.
#[derive(Debug)]
pub struct Example {
    /// As the comment `<!-- role: NAME -->` before it, or before an earlier one, says.
    pub role: String,
    pub statements: String,
    /// The block of text that follows, if one does.
    pub answer: Option<String>,
}

/// The blocks of SQL in a page, but for those after a comment that begins with `not run here`.
pub fn examples(text: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = vec![];
    let (mut role, mut skipped, mut answers) = ("postgres".to_owned(), false, false);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(comment) = line.strip_prefix("<!-- ") {
            let comment = comment.trim_end_matches(" -->");
            skipped = comment.starts_with("not run here: ");
            if let Some(name) = comment.strip_prefix("role: ") {
                name.clone_into(&mut role);
            }
        } else if let Some(language) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            let block = block.join("\n");
            match language {
                "sql" if !skipped => {
                    examples.push(Example {
                        role: role.clone(),
                        statements: block,
                        answer: None,
                    });
                    answers = true;
                    continue;
                }
                "text" if answers => {
                    let example = examples.last_mut().expect("one was pushed");
                    example.answer = Some(block);
                }
                _ => skipped = false,
            }
            answers = false;
        } else if !line.is_empty() {
            answers = false;
        }
    }
    examples
}

#[cfg(test)]
mod tests {
    use super::examples;

    #[test]
    fn an_example_has_its_role_and_the_answer_that_follows_it_at_once() {
        let text = "# Page\n```sql\nSELECT 1;\n```\n\n```text\n1\n```\n<!-- role: backend -->\n```sql\nSELECT 2;\n```\n\
                    Words.\n```text\nno answer\n```\n<!-- not run here: a reason -->\n```sql\nSELECT 3;\n```\n";
        let examples: Vec<_> = examples(text)
            .into_iter()
            .map(|example| (example.role, example.statements, example.answer))
            .collect();
        let expected = [
            ("postgres", "SELECT 1;", Some("1")),
            ("backend", "SELECT 2;", None),
        ];
        let expected = expected.map(|(role, statements, answer)| {
            (
                role.to_owned(),
                statements.to_owned(),
                answer.map(str::to_owned),
            )
        });
        assert_eq!(examples, expected);
    }
}
