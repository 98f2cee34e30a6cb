//! What a DBA may do to our tables and indexes in a transaction that calls wait for.

use magic_link_harness::Database;
use magic_link_harness::postgres::{Error, Transaction};

/// Of each table a column that can be given its own type again, so that the table is rewritten. A table without a line here fails
/// the suite.
const TABLES: [(&str, &str); 8] = [
    ("users", "created_at"),
    ("organizations", "name"),
    ("organization_roles", "name"),
    ("organization_jit_roles", "organization_role_id"),
    ("organization_jit_email_domains", "organization_id"),
    ("organization_memberships", "created_at"),
    ("organization_membership_roles", "organization_role_id"),
    ("one_time_tokens", "failed_attempts"),
];

/// Views and a function of the extension depend on this table.
pub const ONE_TIME_TOKENS: &str = "one_time_tokens";

/// Of each index its table, and whether an ON CONFLICT of ours infers it. An index without a line here fails the suite.
const INDEXES: [(&str, &str, bool); 15] = [
    ("users_pkey", "users", false),
    ("users_email_key", "users", true),
    ("organizations_pkey", "organizations", false),
    ("organization_roles_pkey", "organization_roles", false),
    (
        "organization_jit_roles_pkey",
        "organization_jit_roles",
        false,
    ),
    (
        "organization_jit_roles_organization_role_id_idx",
        "organization_jit_roles",
        false,
    ),
    (
        "organization_jit_email_domains_pkey",
        "organization_jit_email_domains",
        false,
    ),
    (
        "organization_jit_email_domains_email_domain_idx",
        "organization_jit_email_domains",
        false,
    ),
    (
        "organization_memberships_pkey",
        "organization_memberships",
        true,
    ),
    (
        "organization_memberships_user_id_idx",
        "organization_memberships",
        false,
    ),
    (
        "organization_membership_roles_pkey",
        "organization_membership_roles",
        true,
    ),
    (
        "organization_membership_roles_user_id_idx",
        "organization_membership_roles",
        false,
    ),
    (
        "organization_membership_roles_organization_role_id_idx",
        "organization_membership_roles",
        false,
    ),
    ("one_time_tokens_pkey", "one_time_tokens", false),
    (
        "one_time_tokens_email_expires_at_idx",
        "one_time_tokens",
        false,
    ),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    // Of a table.
    Rename,
    RenameThereAndBack,
    /// A rewritten copy takes its name; the indexes keep theirs.
    Swap,
    /// And those of its indexes.
    SwapWithNames,
    /// And the foreign keys.
    SwapWithNamesAndKeys,
    /// The same with a copy that was in another schema.
    SwapFromSchema,
    DropAndCreate,
    SetSchema,
    Rewrite,
    AddColumn,
    RenameColumn,
    DropColumn,
    Unlogged,
    Tablespace,
    Cluster,
    Truncate,
    /// As a partition of another table.
    Attach,
    Inherit,
    Trigger,
    RowSecurity,
    ViewInPlace,
    PartitionedInPlace,
    // Of a constraint: those of one index, or one of the others.
    ConstraintDrop,
    ConstraintDropAndAdd,
    // Of an index.
    IndexRename,
    /// It changes names with an index of another table.
    IndexExchange,
    IndexReplace,
    IndexDrop,
    Reindex,
    IndexTablespace,
    // Of the schema, with a table locked.
    SchemaRename,
    SchemaRenameThereAndBack,
    /// A schema with copies of all tables takes its name.
    SchemaReplace,
    // Of the extension.
    ExtensionDrop,
    ExtensionDropAndCreate,
}

use Kind::*;

const OF_TABLES: [Kind; 25] = [
    Rename,
    RenameThereAndBack,
    Swap,
    SwapWithNames,
    SwapWithNamesAndKeys,
    SwapFromSchema,
    DropAndCreate,
    SetSchema,
    Rewrite,
    AddColumn,
    RenameColumn,
    DropColumn,
    Unlogged,
    Tablespace,
    Cluster,
    Truncate,
    Attach,
    Inherit,
    Trigger,
    RowSecurity,
    ViewInPlace,
    PartitionedInPlace,
    SchemaRename,
    SchemaRenameThereAndBack,
    SchemaReplace,
];

const OF_INDEXES: [Kind; 6] = [
    IndexRename,
    IndexExchange,
    IndexReplace,
    IndexDrop,
    Reindex,
    IndexTablespace,
];

/// A change of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: Kind,
    /// The table that is changed, or that is locked meanwhile; none for the extension.
    pub table: String,
    /// The index or the constraint.
    pub name: String,
}

impl Change {
    pub fn new(kind: Kind, table: &str, name: &str) -> Self {
        Self {
            kind,
            table: table.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Each kind for each object that the catalogue has.
    pub fn all(database: &Database) -> Vec<Self> {
        let mut changes = vec![
            Self::new(ExtensionDrop, "", ""),
            Self::new(ExtensionDropAndCreate, "", ""),
        ];
        for table in tables(database) {
            changes.extend(OF_TABLES.map(|kind| Self::new(kind, &table, "")));
        }
        for (table, index) in indexes(database) {
            changes.extend(OF_INDEXES.map(|kind| Self::new(kind, &table, &index)));
        }
        for (table, constraint) in constraints(database) {
            changes.extend(
                [ConstraintDrop, ConstraintDropAndAdd]
                    .map(|kind| Self::new(kind, &table, &constraint)),
            );
        }
        changes.retain(Self::is_possible);
        changes
    }

    fn is_possible(&self) -> bool {
        let table = self.table.as_str();
        match self.kind {
            // What a logged table refers to is logged.
            Unlogged => table == ONE_TIME_TOKENS,
            // Views of ours need these tables, and go with the extension alone.
            DropAndCreate => table != "users" && table != ONE_TIME_TOKENS,
            DropColumn => unneeded_column(table).is_some(),
            _ => true,
        }
    }

    /// Whether an ON CONFLICT of ours infers the index.
    pub fn takes_an_arbiter(&self) -> bool {
        let dropped = matches!(self.kind, ConstraintDrop | IndexDrop);
        dropped
            && INDEXES
                .iter()
                .any(|(index, _, infers)| *index == self.name && *infers)
    }

    /// Whether rows are gone.
    pub fn loses_rows(&self) -> bool {
        matches!(self.kind, Truncate | ExtensionDropAndCreate)
    }

    /// Whether the rows are others for a snapshot that is older: PostgreSQL's manual calls it "not MVCC-safe".
    pub fn writes_rows_anew(&self) -> bool {
        matches!(
            self.kind,
            Swap | SwapWithNames
                | SwapWithNamesAndKeys
                | SwapFromSchema
                | DropAndCreate
                | Rewrite
                | AddColumn
                | Unlogged
                | Truncate
                | SchemaReplace
                | ExtensionDropAndCreate
        )
    }

    pub fn apply(&self, by: &mut Transaction) -> Result<(), Error> {
        let (table, name) = (self.table.as_str(), self.name.as_str());
        let qualified = format!("magic_link.{table}");
        let lock = format!("LOCK TABLE {qualified} IN ACCESS EXCLUSIVE MODE");
        let mut run = |statements: &str| by.batch_execute(statements);
        match self.kind {
            Rename => run(&format!("ALTER TABLE {qualified} RENAME TO another")),
            RenameThereAndBack => run(&format!(
                "ALTER TABLE {qualified} RENAME TO another; ALTER TABLE magic_link.another RENAME TO {table}"
            )),
            Swap => swap(by, table, Along::Nothing),
            SwapWithNames => swap(by, table, Along::Names),
            SwapWithNamesAndKeys => swap(by, table, Along::NamesAndKeys),
            SwapFromSchema => {
                run(&format!("{lock}; CREATE SCHEMA staged"))?;
                copy(by, table, &format!("staged.{table}"))?;
                by.batch_execute(&format!(
                    "CREATE SCHEMA replaced; ALTER TABLE {qualified} SET SCHEMA replaced; ALTER TABLE staged.{table} SET SCHEMA magic_link"
                ))
            }
            DropAndCreate => {
                let keys = keys_by(by, table, None)?;
                by.batch_execute(&format!("{lock}; {}", Key::drop_all(&keys)))?;
                copy(by, table, "public.copied")?;
                by.batch_execute(&format!(
                    "ALTER EXTENSION magic_link DROP TABLE {qualified}; DROP TABLE {qualified};
                     ALTER TABLE public.copied SET SCHEMA magic_link; ALTER TABLE magic_link.copied RENAME TO {table}; {}",
                    Key::add_all(&keys)
                ))
            }
            SetSchema => run(&format!("ALTER TABLE {qualified} SET SCHEMA public")),
            Rewrite => {
                let column = rewritable(table);
                if table == ONE_TIME_TOKENS {
                    // A view has the column.
                    return run(&format!("{lock}; ALTER TABLE {qualified} SET UNLOGGED; ALTER TABLE {qualified} SET LOGGED"));
                }
                run(&format!(
                    "ALTER TABLE {qualified} ALTER COLUMN {column} TYPE {kind} USING {column}",
                    kind = if column == "created_at" { "timestamptz" } else { "text" }
                ))
            }
            AddColumn => run(&format!(
                "ALTER TABLE {qualified} ADD COLUMN note float8 DEFAULT random()"
            )),
            RenameColumn => run(&format!(
                "ALTER TABLE {qualified} RENAME COLUMN {} TO another",
                first_column(table)
            )),
            DropColumn => run(&format!(
                "ALTER TABLE {qualified} DROP COLUMN {}",
                unneeded_column(table).unwrap_or_default()
            )),
            Unlogged => run(&format!("ALTER TABLE {qualified} SET UNLOGGED")),
            Tablespace => run(&format!("ALTER TABLE {qualified} SET TABLESPACE elsewhere")),
            Cluster => run(&format!("CLUSTER {qualified} USING {table}_pkey")),
            Truncate => run(&format!("TRUNCATE {qualified} CASCADE")),
            Attach => run(&format!(
                "CREATE TABLE magic_link.parent (LIKE {qualified}) PARTITION BY HASH ({});
                 ALTER TABLE magic_link.parent ATTACH PARTITION {qualified} FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
                first_column(table)
            )),
            Inherit => {
                run(&format!(
                    "CREATE TABLE magic_link.parent (LIKE {qualified}); ALTER TABLE {qualified} INHERIT magic_link.parent"
                ))?;
                if table == ONE_TIME_TOKENS {
                    // Its CHECK cannot be inherited.
                    return Ok(());
                }
                run(&format!("CREATE TABLE magic_link.child () INHERITS ({qualified})"))
            }
            Trigger => run(&format!(
                "{lock}; CREATE FUNCTION public.pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
                 CREATE TRIGGER pass BEFORE INSERT OR UPDATE ON {qualified} FOR EACH ROW EXECUTE FUNCTION public.pass()"
            )),
            RowSecurity => run(&format!(
                "ALTER TABLE {qualified} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
            )),
            ViewInPlace => run(&format!(
                "ALTER TABLE {qualified} RENAME TO replaced; CREATE VIEW {qualified} AS SELECT * FROM magic_link.replaced"
            )),
            PartitionedInPlace => run(&format!(
                "CREATE TABLE magic_link.parent (LIKE {qualified} INCLUDING DEFAULTS) PARTITION BY HASH ({});
                 ALTER TABLE magic_link.parent ATTACH PARTITION {qualified} FOR VALUES WITH (MODULUS 1, REMAINDER 0);
                 ALTER TABLE {qualified} RENAME TO part; ALTER TABLE magic_link.parent RENAME TO {table}",
                first_column(table)
            )),
            ConstraintDrop => run(&format!(
                "ALTER TABLE {qualified} DROP CONSTRAINT {name} CASCADE"
            )),
            ConstraintDropAndAdd => {
                let definition = constraint_definition(by, table, name)?;
                let keys = keys_by(by, table, Some(name))?;
                by.batch_execute(&format!(
                    "ALTER TABLE {qualified} DROP CONSTRAINT {name} CASCADE; ALTER TABLE {qualified} ADD CONSTRAINT {name} {definition};
                     {}",
                    Key::add_all(&keys)
                ))
            }
            IndexRename => run(&format!(
                "{lock}; ALTER INDEX magic_link.{name} RENAME TO another"
            )),
            IndexExchange => run(&format!(
                "{lock}; ALTER INDEX magic_link.{name} RENAME TO between; ALTER INDEX magic_link.{other} RENAME TO {name};
                 ALTER INDEX magic_link.between RENAME TO {other}",
                other = index_of_another(table)
            )),
            IndexReplace => replace_index(by, table, name),
            IndexDrop => drop_index(by, table, name),
            Reindex => run(&format!("REINDEX INDEX magic_link.{name}")),
            IndexTablespace => run(&format!(
                "ALTER INDEX magic_link.{name} SET TABLESPACE elsewhere"
            )),
            SchemaRename => run(&format!("{lock}; ALTER SCHEMA magic_link RENAME TO another")),
            SchemaRenameThereAndBack => run(&format!(
                "{lock}; ALTER SCHEMA magic_link RENAME TO another; ALTER SCHEMA another RENAME TO magic_link"
            )),
            SchemaReplace => {
                run(&format!("{lock}; CREATE SCHEMA staged"))?;
                for (table, _) in TABLES {
                    copy(by, table, &format!("staged.{table}"))?;
                }
                by.batch_execute(
                    "ALTER SCHEMA magic_link RENAME TO replaced; ALTER SCHEMA staged RENAME TO magic_link",
                )
            }
            ExtensionDrop => run("DROP EXTENSION magic_link CASCADE"),
            ExtensionDropAndCreate => {
                run("DROP EXTENSION magic_link CASCADE; CREATE EXTENSION magic_link")
            }
        }
    }
}

fn tables(database: &Database) -> Vec<String> {
    let tables: Vec<String> = database
        .tables()
        .into_iter()
        .map(|table| table.replace("magic_link.", ""))
        .collect();
    for table in &tables {
        rewritable(table);
    }
    assert_eq!(tables.len(), TABLES.len(), "a table is gone: {tables:?}");
    tables
}

fn indexes(database: &Database) -> Vec<(String, String)> {
    let query = "
        SELECT t.relname::text, i.relname::text
          FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid JOIN pg_class AS t ON t.oid = x.indrelid
         WHERE t.relnamespace = 'magic_link'::regnamespace ORDER BY 1, 2";
    let indexes = pairs(database, query);
    for (table, index) in &indexes {
        assert!(
            INDEXES
                .iter()
                .any(|(known, of, _)| known == index && of == table),
            "ddl_changes.rs has no line for the index {index} of {table}"
        );
    }
    assert_eq!(
        indexes.len(),
        INDEXES.len(),
        "an index is gone: {indexes:?}"
    );
    indexes
}

fn constraints(database: &Database) -> Vec<(String, String)> {
    pairs(
        database,
        "SELECT t.relname::text, c.conname::text FROM pg_constraint AS c JOIN pg_class AS t ON t.oid = c.conrelid
          WHERE c.connamespace = 'magic_link'::regnamespace AND c.contype IN ('p', 'u', 'f', 'c') ORDER BY 1, 2",
    )
}

fn pairs(database: &Database, query: &str) -> Vec<(String, String)> {
    let rows = database
        .superuser()
        .query(query, &[])
        .expect("no catalogue");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn rewritable(table: &str) -> &'static str {
    let known = TABLES.iter().find(|(known, _)| *known == table);
    let (_, column) =
        known.unwrap_or_else(|| panic!("ddl_changes.rs has no line for the table {table}"));
    column
}

fn first_column(table: &str) -> &'static str {
    match table {
        "users" | "organizations" | "organization_roles" | ONE_TIME_TOKENS => "id",
        _ => "organization_id",
    }
}

/// A column that we read and no view or foreign key of others needs.
fn unneeded_column(table: &str) -> Option<&'static str> {
    match table {
        ONE_TIME_TOKENS => Some("token_hash"),
        "organization_jit_roles" => Some("organization_role_id"),
        "organization_jit_email_domains" => Some("email_domain"),
        _ => None,
    }
}

fn index_of_another(table: &str) -> &'static str {
    if table == "organizations" {
        "organization_roles_pkey"
    } else {
        "organizations_pkey"
    }
}

/// A copy with the rows in the opposite order, so that each lies where another lay.
fn copy(by: &mut Transaction, table: &str, into: &str) -> Result<(), Error> {
    // The CHECK on one_time_tokens takes a row of the table's own row type.
    let except = if table == ONE_TIME_TOKENS {
        "EXCLUDING CONSTRAINTS"
    } else {
        ""
    };
    by.batch_execute(&format!(
        "CREATE TABLE {into} (LIKE magic_link.{table} INCLUDING ALL {except});
         INSERT INTO {into} SELECT * FROM magic_link.{table} ORDER BY ctid DESC"
    ))
}

/// What goes to the new table beside the name.
#[derive(Clone, Copy, PartialEq)]
enum Along {
    Nothing,
    Names,
    NamesAndKeys,
}

fn swap(by: &mut Transaction, table: &str, along: Along) -> Result<(), Error> {
    let keys = match along {
        Along::NamesAndKeys => keys_by(by, table, None)?,
        _ => vec![],
    };
    by.batch_execute(&format!(
        "LOCK TABLE magic_link.{table} IN ACCESS EXCLUSIVE MODE"
    ))?;
    copy(by, table, "magic_link.rewritten")?;
    by.batch_execute(&Key::drop_all(&keys))?;
    by.batch_execute(&format!(
        "ALTER TABLE magic_link.{table} RENAME TO replaced; ALTER TABLE magic_link.rewritten RENAME TO {table}"
    ))?;
    if along != Along::Nothing {
        move_index_names(by, table)?;
    }
    by.batch_execute(&Key::add_all(&keys))
}

fn move_index_names(by: &mut Transaction, table: &str) -> Result<(), Error> {
    let query = "
        SELECT o.indexrelid::regclass::text, parse_ident(o.indexrelid::regclass::text), n.indexrelid::regclass::text
          FROM pg_index AS o JOIN pg_index AS n USING (indkey, indisunique, indisprimary)
         WHERE o.indrelid = 'magic_link.replaced'::regclass AND n.indrelid = $1::text::regclass";
    let rows = by.query(query, &[&format!("magic_link.{table}")])?;
    assert!(!rows.is_empty(), "the indexes of {table} are elsewhere");
    for (number, row) in rows.iter().enumerate() {
        let (old, parts, new): (String, Vec<String>, String) = (row.get(0), row.get(1), row.get(2));
        by.batch_execute(&format!(
            "ALTER INDEX {old} RENAME TO replaced_{number}; ALTER INDEX {new} RENAME TO {}",
            parts[1]
        ))?;
    }
    Ok(())
}

/// A foreign key.
struct Key {
    table: String,
    name: String,
    definition: String,
}

impl Key {
    fn drop_all(keys: &[Self]) -> String {
        let drop = |key: &Self| format!("ALTER TABLE {} DROP CONSTRAINT {};", key.table, key.name);
        keys.iter().map(drop).collect()
    }

    fn add_all(keys: &[Self]) -> String {
        let add = |key: &Self| {
            format!(
                "ALTER TABLE {} ADD CONSTRAINT {} {};",
                key.table, key.name, key.definition
            )
        };
        keys.iter().map(add).collect()
    }
}

/// The foreign keys from and to a table, or those that need one of its constraints.
fn keys_by(by: &mut Transaction, table: &str, needed: Option<&str>) -> Result<Vec<Key>, Error> {
    let query = "
        SELECT c.conrelid::regclass::text, c.conname::text, pg_get_constraintdef(c.oid)
          FROM pg_constraint AS c LEFT JOIN pg_class AS i ON i.oid = c.conindid
         WHERE c.contype = 'f' AND (c.confrelid = $1::text::regclass OR c.conrelid = $1::text::regclass AND $2::text IS NULL)
           AND ($2 IS NULL OR i.relname = $2)
         ORDER BY 1, 2";
    let rows = by.query(query, &[&format!("magic_link.{table}"), &needed])?;
    let key = |row: &magic_link_harness::postgres::Row| Key {
        table: row.get(0),
        name: row.get(1),
        definition: row.get(2),
    };
    Ok(rows.iter().map(key).collect())
}

fn constraint_definition(by: &mut Transaction, table: &str, name: &str) -> Result<String, Error> {
    let query = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = $1::text::regclass AND conname = $2::text::name";
    let row = by.query_one(query, &[&format!("magic_link.{table}"), &name])?;
    Ok(row.get(0))
}

/// `p` or `u` where a constraint has the index.
fn constraint_type(by: &mut Transaction, name: &str) -> Result<Option<String>, Error> {
    let query = "SELECT contype::text FROM pg_constraint WHERE conindid = $1::text::regclass AND contype IN ('p', 'u')";
    let row = by.query_opt(query, &[&format!("magic_link.{name}")])?;
    Ok(row.map(|row| row.get(0)))
}

fn replace_index(by: &mut Transaction, table: &str, name: &str) -> Result<(), Error> {
    let definition: String = by
        .query_one(
            "SELECT pg_get_indexdef($1::text::regclass)",
            &[&format!("magic_link.{name}")],
        )?
        .get(0);
    by.batch_execute(&definition.replacen(&format!("INDEX {name} "), "INDEX replacing ", 1))?;
    let Some(kind) = constraint_type(by, name)? else {
        return by.batch_execute(&format!(
            "DROP INDEX magic_link.{name}; ALTER INDEX magic_link.replacing RENAME TO {name}"
        ));
    };
    let keys = keys_by(by, table, Some(name))?;
    let kind = if kind == "p" { "PRIMARY KEY" } else { "UNIQUE" };
    by.batch_execute(&format!(
        "ALTER TABLE magic_link.{table} DROP CONSTRAINT {name} CASCADE;
         ALTER TABLE magic_link.{table} ADD CONSTRAINT {name} {kind} USING INDEX replacing;
         {}",
        Key::add_all(&keys)
    ))
}

fn drop_index(by: &mut Transaction, table: &str, name: &str) -> Result<(), Error> {
    if constraint_type(by, name)?.is_none() {
        return by.batch_execute(&format!("DROP INDEX magic_link.{name}"));
    }
    by.batch_execute(&format!(
        "ALTER TABLE magic_link.{table} DROP CONSTRAINT {name} CASCADE"
    ))
}
