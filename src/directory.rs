//! Users, organizations and memberships. The door is narrow, so that an application's own function
//! may take the directory's place later: a user's id leaves as text.

use std::fmt;

use pgrx::pg_sys::{TEXTOID, UUIDOID};
use serde::Serialize;
use uuid::Uuid;

use crate::email::Email;
use crate::fmgr::pg_uuid;
use crate::index_scan::{Found, Index, Key, Row};
use crate::raise::{Failure, Report};
use crate::statements::{Parameters, Spi, statements};

static USERS: Index = Index {
    table: c"users",
    name: c"users_pkey",
    key: &[1],
    columns: &[UUIDOID],
    found: Found::not_yet(),
};

static USERS_BY_EMAIL: Index = Index {
    table: c"users",
    name: c"users_email_key",
    key: &[2],
    columns: &[UUIDOID, TEXTOID],
    found: Found::not_yet(),
};

static ORGANIZATIONS: Index = Index {
    table: c"organizations",
    name: c"organizations_pkey",
    key: &[1],
    columns: &[TEXTOID],
    found: Found::not_yet(),
};

static ROLES: Index = Index {
    table: c"organization_roles",
    name: c"organization_roles_pkey",
    key: &[1],
    columns: &[TEXTOID],
    found: Found::not_yet(),
};

static DEFAULT_ROLES: Index = Index {
    table: c"organization_jit_roles",
    name: c"organization_jit_roles_pkey",
    key: &[1],
    columns: &[TEXTOID, TEXTOID],
    found: Found::not_yet(),
};

static EMAIL_DOMAINS: Index = Index {
    table: c"organization_jit_email_domains",
    name: c"organization_jit_email_domains_email_domain_idx",
    key: &[2],
    columns: &[TEXTOID, TEXTOID],
    found: Found::not_yet(),
};

static MEMBERSHIPS: Index = Index {
    table: c"organization_memberships",
    name: c"organization_memberships_pkey",
    key: &[1, 2],
    columns: &[TEXTOID, UUIDOID],
    found: Found::not_yet(),
};

static HELD_ROLES: Index = Index {
    table: c"organization_membership_roles",
    name: c"organization_membership_roles_pkey",
    key: &[1, 2],
    columns: &[TEXTOID, UUIDOID, TEXTOID],
    found: Found::not_yet(),
};

statements! {
    INSERT_USER(UUIDOID, TEXTOID) = c"
        INSERT INTO magic_link.users (id, email) VALUES ($1, $2)
            ON CONFLICT (email) DO NOTHING RETURNING id";

    INSERT_MEMBERSHIP(TEXTOID, UUIDOID) = c"
        INSERT INTO magic_link.organization_memberships (organization_id, user_id) VALUES ($1, $2)";

    INSERT_MEMBERSHIP_IF_MISSING(TEXTOID, UUIDOID) = c"
        INSERT INTO magic_link.organization_memberships (organization_id, user_id) VALUES ($1, $2)
            ON CONFLICT (organization_id, user_id) DO NOTHING";

    INSERT_ROLE(TEXTOID, UUIDOID, TEXTOID) = c"
        INSERT INTO magic_link.organization_membership_roles (organization_id, user_id, organization_role_id)
        VALUES ($1, $2, $3)";

    INSERT_ROLE_IF_MISSING(TEXTOID, UUIDOID, TEXTOID) = c"
        INSERT INTO magic_link.organization_membership_roles (organization_id, user_id, organization_role_id)
        VALUES ($1, $2, $3)
            ON CONFLICT (organization_id, user_id, organization_role_id) DO NOTHING";
}

/// A user's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserId(Uuid);

impl UserId {
    /// An id for a user who may be created.
    pub fn from_v7(id: Uuid) -> Self {
        Self(id)
    }

    fn of(id: pgrx::Uuid) -> Self {
        Self(Uuid::from_bytes(*id.as_bytes()))
    }

    fn parameter(self) -> pgrx::Uuid {
        pg_uuid(self.0)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What joining an organization came to: an element of a redemption's `memberships`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    organization_id: String,
    status: MembershipStatus,
    /// All roles that the member holds there afterwards, in order of id.
    role_ids: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum MembershipStatus {
    Added,
    AlreadyMember,
    OrganizationMissing,
}

/// A concurrent change may undo what a look has just seen, and somebody has to win; this many in a
/// row are not chance but a trigger that suppresses our rows.
const ATTEMPTS: usize = 16;

/// The user who has the address.
pub fn find_user(spi: &Spi, email: &Email) -> Result<Option<UserId>, Failure> {
    let row = USERS_BY_EMAIL.row(spi, &[Key::Text(email.as_str())])?;
    row.map(|row| row.required(1).map(UserId::of)).transpose()
}

/// The user who has the address, and whether it had to be created, if it can be with the id `candidate`.
pub fn find_or_create_user(
    spi: &Spi,
    email: &Email,
    candidate: UserId,
) -> Result<(UserId, bool), Failure> {
    for _ in 0..ATTEMPTS {
        let user = Parameters::of(candidate.parameter()).and(email.as_str());
        if let Some(row) = spi.row(&INSERT_USER, user)? {
            // A trigger may have given it another id.
            return Ok((UserId::of(row.required(1)?), true));
        }
        if let Some(user) = find_user(spi, email)? {
            return Ok((user, false));
        }
    }
    Err(Report::suppressed("users").into())
}

/// Keeps a user from being deleted until the end of the transaction; false where it is gone already.
pub fn lock_user(spi: &Spi, user: UserId) -> Result<bool, Failure> {
    USERS.lock(spi, &[Key::Uuid(user.0)])
}

/// A user who joins organizations.
#[derive(Clone, Copy)]
pub struct Member {
    user: UserId,
    /// By this transaction: nobody else sees the user, or makes it a member.
    user_created: bool,
    /// Triggers may do the same as we, before or after us.
    triggers: bool,
}

impl Member {
    pub fn new(spi: &Spi, user: UserId, user_created: bool) -> Result<Self, Failure> {
        let triggers = MEMBERSHIPS.table_has_triggers(spi)?
            || HELD_ROLES.table_has_triggers(spi)?
            || user_created && USERS.table_has_triggers(spi)?;
        Ok(Self {
            user,
            user_created,
            triggers,
        })
    }
}

/// Makes the user a member with the organization's default roles, or with `roles` in their place.
/// Who is a member keeps all roles and gains what is missing.
pub fn join(
    spi: &Spi,
    member: Member,
    organization_id: &str,
    roles: Option<&[String]>,
) -> Result<Membership, Failure> {
    let status = add_member(spi, member, organization_id)?;
    let role_ids = match status {
        MembershipStatus::OrganizationMissing => vec![],
        MembershipStatus::Added | MembershipStatus::AlreadyMember => {
            let default_roles;
            let roles = match roles {
                Some(roles) => roles,
                None => {
                    default_roles = default_roles_of(spi, organization_id)?;
                    &default_roles
                }
            };
            grant(spi, member, organization_id, roles, status)?
        }
    };
    Ok(Membership {
        organization_id: organization_id.to_owned(),
        status,
        role_ids,
    })
}

/// The lock keeps the organization until the foreign key is checked, and after.
fn add_member(
    spi: &Spi,
    member: Member,
    organization_id: &str,
) -> Result<MembershipStatus, Failure> {
    if !ORGANIZATIONS.lock(spi, &[Key::Text(organization_id)])? {
        return Ok(MembershipStatus::OrganizationMissing);
    }
    let row = || membership(organization_id, member.user);
    if member.user_created && !member.triggers {
        // Nobody can have been here: a third less to do.
        return match spi.execute(&INSERT_MEMBERSHIP, row())? {
            0 => Err(Report::suppressed("organization_memberships").into()),
            _ => Ok(MembershipStatus::Added),
        };
    }
    let key = [Key::Text(organization_id), Key::Uuid(member.user.0)];
    for _ in 0..ATTEMPTS {
        if MEMBERSHIPS.lock(spi, &key)? {
            return Ok(MembershipStatus::AlreadyMember);
        }
        if spi.execute(&INSERT_MEMBERSHIP_IF_MISSING, row())? > 0 {
            return Ok(MembershipStatus::Added);
        }
    }
    Err(Report::suppressed("organization_memberships").into())
}

/// Grants the roles that the member has not, and answers all that it holds then. They are locked in
/// order of id, like the organizations: two redemptions cannot deadlock. A role that is being deleted
/// is waited for and passed over.
fn grant(
    spi: &Spi,
    member: Member,
    organization_id: &str,
    roles: &[String],
    status: MembershipStatus,
) -> Result<Vec<String>, Failure> {
    let row = |role: &str| membership(organization_id, member.user).and(role);
    if status == MembershipStatus::Added && !member.triggers {
        // Nobody else sees this membership, or gives it a role.
        let mut granted = vec![];
        for role in roles {
            if ROLES.lock(spi, &[Key::Text(role)])? {
                spi.execute(&INSERT_ROLE, row(role))?;
                granted.push(role.clone());
            }
        }
        return Ok(granted);
    }
    let held = held_roles(spi, member.user, organization_id)?;
    for role in roles.iter().filter(|role| !held.contains(role)) {
        if ROLES.lock(spi, &[Key::Text(role)])? {
            spi.execute(&INSERT_ROLE_IF_MISSING, row(role))?;
        }
    }
    held_roles(spi, member.user, organization_id)
}

/// In order of id.
fn default_roles_of(spi: &Spi, organization_id: &str) -> Result<Vec<String>, Failure> {
    texts(DEFAULT_ROLES.rows(spi, &[Key::Text(organization_id)])?, 2)
}

/// In order of id.
fn held_roles(spi: &Spi, user: UserId, organization_id: &str) -> Result<Vec<String>, Failure> {
    let key = [Key::Text(organization_id), Key::Uuid(user.0)];
    texts(HELD_ROLES.rows(spi, &key)?, 3)
}

/// The organizations that a user created with such an address joins.
pub fn organizations_of_domain(spi: &Spi, email: &Email) -> Result<Vec<String>, Failure> {
    texts(EMAIL_DOMAINS.rows(spi, &[Key::Text(email.domain())])?, 1)
}

pub fn organization_exists(spi: &Spi, id: &str) -> Result<bool, Failure> {
    ORGANIZATIONS.has_row(spi, &[Key::Text(id)])
}

pub fn role_exists(spi: &Spi, id: &str) -> Result<bool, Failure> {
    ROLES.has_row(spi, &[Key::Text(id)])
}

/// The values of a column that cannot be NULL, in order, each once: in one snapshot a row that was deleted since is seen
/// beside the one that our transaction put in its place.
fn texts(rows: Vec<Row>, column: usize) -> Result<Vec<String>, Failure> {
    let mut texts: Vec<String> = rows
        .iter()
        .map(|row| row.required_text(column).map(str::to_owned))
        .collect::<Result<_, _>>()?;
    texts.sort_unstable();
    texts.dedup();
    Ok(texts)
}

fn membership(organization_id: &str, user: UserId) -> Parameters {
    Parameters::of(organization_id).and(user.parameter())
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::*;
    use crate::raise::SqlState;
    use crate::statements::Spi;
    use crate::system::new_uuid;

    const ACME: &str = "
        INSERT INTO magic_link.organizations VALUES ('acme', 'Acme');
        INSERT INTO magic_link.organization_roles VALUES ('editor', 'Editor'), ('member', 'Member'), ('viewer', 'Viewer');
        INSERT INTO magic_link.organization_jit_roles VALUES ('acme', 'member'), ('acme', 'editor')";

    fn ada() -> Email {
        Email::parse("ada@example.com").unwrap()
    }

    fn candidate() -> UserId {
        UserId::from_v7(new_uuid().unwrap())
    }

    fn member_of_acme(spi: &Spi, roles: Option<&[String]>) -> Membership {
        let (user, user_created) = find_or_create_user(spi, &ada(), candidate()).unwrap();
        let member = Member::new(spi, user, user_created).unwrap();
        join(spi, member, "acme", roles).unwrap()
    }

    #[pg_test]
    fn an_address_is_one_user() {
        let spi = Spi::connect().unwrap();
        assert_eq!(find_user(&spi, &ada()).unwrap(), None);
        let id = candidate();
        assert_eq!(find_or_create_user(&spi, &ada(), id).unwrap(), (id, true));
        assert_eq!(
            find_or_create_user(&spi, &ada(), candidate()).unwrap(),
            (id, false)
        );
        assert_eq!(find_user(&spi, &ada()).unwrap(), Some(id));
        assert!(lock_user(&spi, id).unwrap());
        assert!(!lock_user(&spi, candidate()).unwrap());
    }

    #[pg_test]
    fn a_member_gets_the_default_roles_or_the_named_ones() {
        pgrx::Spi::run(ACME).unwrap();
        let spi = Spi::connect().unwrap();
        let named = ["gone".to_owned(), "viewer".to_owned()];
        let rows = [
            (Some(&[][..]), MembershipStatus::Added, vec![]),
            (
                Some(&named[..]),
                MembershipStatus::AlreadyMember,
                vec!["viewer"],
            ),
            (
                None,
                MembershipStatus::AlreadyMember,
                vec!["editor", "member", "viewer"],
            ),
        ];
        for (roles, status, role_ids) in rows {
            let membership = member_of_acme(&spi, roles);
            assert_eq!(
                (membership.status, membership.role_ids),
                (status, role_ids.into_iter().map(str::to_owned).collect())
            );
        }
    }

    #[pg_test]
    fn a_missing_organization_is_reported() {
        let spi = Spi::connect().unwrap();
        let membership = member_of_acme(&spi, None);
        let json = serde_json::to_string(&membership).unwrap();
        assert_eq!(
            json,
            r#"{"organizationId":"acme","status":"organization_missing","roleIds":[]}"#
        );
    }

    #[pg_test]
    fn a_trigger_that_suppresses_the_user_is_an_error_and_no_loop() {
        pgrx::Spi::run(
            "CREATE FUNCTION pg_temp.suppress() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER suppress BEFORE INSERT ON magic_link.users FOR EACH ROW EXECUTE FUNCTION pg_temp.suppress()",
        )
        .unwrap();
        let spi = Spi::connect().unwrap();
        let failure = find_or_create_user(&spi, &ada(), candidate()).unwrap_err();
        let Failure::Report(report) = failure else {
            panic!("{failure:?}");
        };
        assert_eq!(report.sqlstate, SqlState::TRIGGERED_DATA_CHANGE_VIOLATION);
    }
}
