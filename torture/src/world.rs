//! The few addresses, organizations and roles on which everybody meets. What is called `kept` is never deleted, and so has to be there
//! whatever happens beside it; all else comes and goes. Accounts come and go as well, and so do their addresses: `torture.changes` has
//! each committed change that is not a redemption's.

use magic_link_harness::Database;

pub const ADDRESSES: [&str; 6] = [
    "ann@kept.example",
    "bob@kept.example",
    "cid@kept.example",
    "dan@fleeting.example",
    "eve@fleeting.example",
    "fay@fleeting.example",
];
pub const ORGANIZATIONS: [&str; 5] = ["kept-1", "kept-2", "fleeting-1", "fleeting-2", "fleeting-3"];
pub const ROLES: [&str; 4] = ["kept-a", "kept-b", "fleeting-a", "fleeting-b"];

/// Of every organization.
pub const DEFAULT_ROLES: [&str; 2] = ["kept-a", "fleeting-a"];

/// Whom redeeming creates at `kept.example` joins it.
pub const ORGANIZATION_OF_DOMAIN: &str = "kept-2";

pub fn is_kept(name: &str) -> bool {
    name.contains("kept")
}

/// Whoever works here is the application: it calls the functions and writes to the directory.
pub const ROLE: &str = "application";

pub fn furnish(database: &Database) {
    database.roles(&ROLES);
    for organization in ORGANIZATIONS {
        database.organization(organization, &DEFAULT_ROLES);
    }
    let application = database.role(ROLE, "LOGIN NOSUPERUSER");
    database.sql(&format!(
        "GRANT {backend}, {admin} TO {application};
         GRANT EXECUTE ON FUNCTION magic_link.normalize_email(text) TO {application};
         GRANT SELECT, INSERT, UPDATE, DELETE ON magic_link.users, magic_link.organizations, magic_link.organization_roles,
               magic_link.organization_jit_roles, magic_link.organization_jit_email_domains,
               magic_link.organization_memberships, magic_link.organization_membership_roles TO {application};
         CREATE SCHEMA torture;
         CREATE TABLE torture.changes (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, piece bigint NOT NULL, deed int NOT NULL,
                                       user_id uuid NOT NULL, email text, new_email text);
         GRANT USAGE ON SCHEMA torture TO {application};
         GRANT SELECT, INSERT ON torture.changes TO {application};
         INSERT INTO magic_link.organization_jit_email_domains VALUES ('{ORGANIZATION_OF_DOMAIN}', 'kept.example')",
        backend = database.backend_role(),
        admin = database.admin_role(),
    ));
}
