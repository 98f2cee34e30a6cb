//! Users, organizations and memberships. The door is narrow, so that an application's own function
//! may take the directory's place later: a user's id leaves as text.

use std::fmt;

use pgrx::pg_sys;
use serde::Serialize;
use uuid::Uuid;

use crate::postgres::datum::pg_uuid;
use crate::postgres::error::Error;
use crate::postgres::index_lookup::{HeapRow, IndexLookup, Key, concurrent_update};
use crate::postgres::scan::{Strength, uses_transaction_snapshot};
use crate::postgres::spi::{Parameters, Spi, statements};
use crate::postgres::table::Table;
use domain::email::Email;

static USERS: Table = Table::new(
    c"users",
    &[(c"id", pg_sys::UUIDOID), (c"email", pg_sys::TEXTOID)],
);
static USERS_BY_EMAIL: IndexLookup = IndexLookup::unique(&USERS, &[2]);

static ORGANIZATIONS: Table = Table::new(c"organizations", &[(c"id", pg_sys::TEXTOID)]);
static ORGANIZATIONS_BY_ID: IndexLookup = IndexLookup::unique(&ORGANIZATIONS, &[1]);

static ROLES: Table = Table::new(c"organization_roles", &[(c"id", pg_sys::TEXTOID)]);
static ROLES_BY_ID: IndexLookup = IndexLookup::unique(&ROLES, &[1]);

static DEFAULT_ROLES: Table = Table::new(
    c"organization_jit_roles",
    &[
        (c"organization_id", pg_sys::TEXTOID),
        (c"organization_role_id", pg_sys::TEXTOID),
    ],
);
static DEFAULT_ROLES_BY_ORGANIZATION: IndexLookup = IndexLookup::of_many(&DEFAULT_ROLES, &[1]);

static EMAIL_DOMAINS: Table = Table::new(
    c"organization_jit_email_domains",
    &[
        (c"organization_id", pg_sys::TEXTOID),
        (c"email_domain", pg_sys::TEXTOID),
    ],
);
static EMAIL_DOMAINS_BY_DOMAIN: IndexLookup = IndexLookup::of_many(&EMAIL_DOMAINS, &[2]);

static MEMBERSHIPS: Table = Table::new(
    c"organization_memberships",
    &[
        (c"organization_id", pg_sys::TEXTOID),
        (c"user_id", pg_sys::UUIDOID),
    ],
);
static MEMBERSHIPS_BY_KEY: IndexLookup = IndexLookup::unique(&MEMBERSHIPS, &[1, 2]);

static HELD_ROLES: Table = Table::new(
    c"organization_membership_roles",
    &[
        (c"organization_id", pg_sys::TEXTOID),
        (c"user_id", pg_sys::UUIDOID),
        (c"organization_role_id", pg_sys::TEXTOID),
    ],
);
static HELD_ROLES_BY_MEMBERSHIP: IndexLookup = IndexLookup::of_many(&HELD_ROLES, &[1, 2]);

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
pub const ATTEMPTS: usize = 16;

/// The user who has the address.
pub fn find_user(spi: &Spi, email: &Email) -> Result<Option<UserId>, Error> {
    id_of(USERS_BY_EMAIL.row(spi, &[Key::Text(email.as_str())])?)
}

/// The same, where the answer is to hold now: 40001 where it changed since the snapshot of a transaction
/// that has but one.
pub fn find_user_now(spi: &Spi, email: &Email) -> Result<Option<UserId>, Error> {
    let user = find_user(spi, email)?;
    if uses_transaction_snapshot() {
        let now = USERS_BY_EMAIL.latest_row(spi, &[Key::Text(email.as_str())])?;
        if id_of(now)? != user {
            return Err(concurrent_update());
        }
    }
    Ok(user)
}

/// The same, and keeps the user, and the address with it, until the end of the transaction: FOR KEY SHARE
/// keeps the columns of a unique index as they are.
pub fn lock_user(spi: &Spi, email: &Email) -> Result<Option<UserId>, Error> {
    let key = [Key::Text(email.as_str())];
    let user = id_of(USERS_BY_EMAIL.lock(spi, &key, Strength::KeyShare)?)?;
    if user.is_none() && uses_transaction_snapshot() {
        return find_user_now(spi, email);
    }
    Ok(user)
}

fn id_of(user: Option<HeapRow>) -> Result<Option<UserId>, Error> {
    user.map(|row| row.required(1).map(UserId::of)).transpose()
}

/// Creates the user with the id `candidate`; None where somebody has the address. A trigger may give it
/// another id.
pub fn create_user(spi: &Spi, email: &Email, candidate: UserId) -> Result<Option<UserId>, Error> {
    let user = Parameters::of(candidate.parameter()).and(email.as_str());
    let row = spi.row(&INSERT_USER, user)?;
    row.map(|row| row.required(1).map(UserId::of)).transpose()
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
    pub fn new(user: UserId, user_created: bool) -> Result<Self, Error> {
        let triggers = MEMBERSHIPS_BY_KEY.table_has_triggers()?
            || HELD_ROLES_BY_MEMBERSHIP.table_has_triggers()?
            || user_created && USERS_BY_EMAIL.table_has_triggers()?;
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
) -> Result<Membership, Error> {
    let status = add_member(spi, member, organization_id)?;
    let role_ids = match status {
        MembershipStatus::OrganizationMissing => vec![],
        MembershipStatus::Added | MembershipStatus::AlreadyMember => {
            grant(spi, member, organization_id, roles, status)?
        }
    };
    Ok(Membership {
        organization_id: organization_id.to_owned(),
        status,
        role_ids,
    })
}

impl Membership {
    pub fn is_missing(&self) -> bool {
        self.status == MembershipStatus::OrganizationMissing
    }
}

/// The lock keeps the organization until the foreign key is checked, and after.
fn add_member(spi: &Spi, member: Member, organization_id: &str) -> Result<MembershipStatus, Error> {
    if !is_kept(spi, &ORGANIZATIONS_BY_ID, &[Key::Text(organization_id)])? {
        return Ok(MembershipStatus::OrganizationMissing);
    }
    let row = || membership(organization_id, member.user);
    if member.user_created && !member.triggers {
        // Nobody can have been here: a third less to do.
        return match spi.execute(&INSERT_MEMBERSHIP, row())? {
            0 => Err(Error::suppressed("organization_memberships")),
            _ => Ok(MembershipStatus::Added),
        };
    }
    let key = [Key::Text(organization_id), Key::Uuid(member.user.0)];
    for _ in 0..ATTEMPTS {
        if is_kept(spi, &MEMBERSHIPS_BY_KEY, &key)? {
            return Ok(MembershipStatus::AlreadyMember);
        }
        if spi.execute(&INSERT_MEMBERSHIP_IF_MISSING, row())? > 0 {
            return Ok(MembershipStatus::Added);
        }
    }
    Err(Error::suppressed("organization_memberships"))
}

/// Whether a row is there; if it is, it stays until the end of the transaction, with its key.
fn is_kept(spi: &Spi, lookup: &'static IndexLookup, key: &[Key]) -> Result<bool, Error> {
    Ok(lookup.lock(spi, key, Strength::KeyShare)?.is_some())
}

/// Grants the roles that the member has not, and answers all that it holds then. First all are locked, then all are
/// written, each time in order of id: two redemptions cannot deadlock.
fn grant(
    spi: &Spi,
    member: Member,
    organization_id: &str,
    roles: Option<&[String]>,
    status: MembershipStatus,
) -> Result<Vec<String>, Error> {
    // Where it is so, nobody else sees this membership, or gives it a role.
    let is_ours = status == MembershipStatus::Added && !member.triggers;
    let (insert, held) = if is_ours {
        (&INSERT_ROLE, vec![])
    } else {
        let held = held_roles(spi, member.user, organization_id)?;
        (&INSERT_ROLE_IF_MISSING, held)
    };
    let granted = match roles {
        Some(roles) => lock_roles(spi, roles, &held)?.kept,
        None => lock_default_roles(spi, organization_id, &held)?,
    };
    for role in &granted {
        let row = membership(organization_id, member.user).and(role.as_str());
        spi.execute(insert, row)?;
    }
    if is_ours {
        return Ok(granted);
    }
    held_roles(spi, member.user, organization_id)
}

/// What locking roles came to.
struct LockedRoles {
    /// Those that are there, and stay until the end of the transaction; in order.
    kept: Vec<String>,
    /// Whether one of them was not there.
    missed: bool,
}

/// Locks these roles but for those that are held. One that is being deleted is waited for and passed over.
fn lock_roles(spi: &Spi, roles: &[String], held: &[String]) -> Result<LockedRoles, Error> {
    let (mut kept, mut missed) = (vec![], false);
    for role in roles.iter().filter(|role| !held.contains(role)) {
        if is_kept(spi, &ROLES_BY_ID, &[Key::Text(role)])? {
            kept.push(role.clone());
        } else {
            missed = true;
        }
    }
    Ok(LockedRoles { kept, missed })
}

/// Locks the organization's default roles. One that is not there once its lock was waited for may have been
/// renamed, or replaced by another: then they are looked up again.
fn lock_default_roles(
    spi: &Spi,
    organization_id: &str,
    held: &[String],
) -> Result<Vec<String>, Error> {
    let mut roles = default_roles_of(spi, organization_id)?;
    for _ in 0..ATTEMPTS {
        let locked = lock_roles(spi, &roles, held)?;
        if !locked.missed {
            return Ok(locked.kept);
        }
        let now = default_roles_of(spi, organization_id)?;
        if now == roles {
            return Ok(locked.kept);
        }
        roles = now;
    }
    Err(concurrent_update())
}

/// In order of id.
fn default_roles_of(spi: &Spi, organization_id: &str) -> Result<Vec<String>, Error> {
    let key = [Key::Text(organization_id)];
    texts(DEFAULT_ROLES_BY_ORGANIZATION.rows(spi, &key)?, 2)
}

/// In order of id.
fn held_roles(spi: &Spi, user: UserId, organization_id: &str) -> Result<Vec<String>, Error> {
    let key = [Key::Text(organization_id), Key::Uuid(user.0)];
    texts(HELD_ROLES_BY_MEMBERSHIP.rows(spi, &key)?, 3)
}

/// The organizations that a user created with such an address joins.
pub fn organizations_of_domain(spi: &Spi, email: &Email) -> Result<Vec<String>, Error> {
    texts(
        EMAIL_DOMAINS_BY_DOMAIN.rows(spi, &[Key::Text(email.domain())])?,
        1,
    )
}

pub fn organization_exists(spi: &Spi, id: &str) -> Result<bool, Error> {
    ORGANIZATIONS_BY_ID.has_row(spi, &[Key::Text(id)])
}

pub fn role_exists(spi: &Spi, id: &str) -> Result<bool, Error> {
    ROLES_BY_ID.has_row(spi, &[Key::Text(id)])
}

/// The values of a column that cannot be NULL, in order, each once: in one snapshot a row that was deleted since is seen
/// beside the one that our transaction put in its place.
fn texts(rows: Vec<HeapRow>, column: usize) -> Result<Vec<String>, Error> {
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
    use crate::postgres::clock::new_uuid;
    use crate::postgres::datum::CallMemory;
    use crate::postgres::spi::Spi;

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
        let created = create_user(spi, &ada(), candidate()).unwrap();
        let user_created = created.is_some();
        let user = created.or_else(|| find_user(spi, &ada()).unwrap()).unwrap();
        let member = Member::new(user, user_created).unwrap();
        join(spi, member, "acme", roles).unwrap()
    }

    #[pg_test]
    fn an_address_is_one_user() {
        let spi = Spi::connect(CallMemory::of_test()).unwrap();
        assert_eq!(find_user(&spi, &ada()).unwrap(), None);
        let eve = Email::parse("eve@example.com").unwrap();
        let id = candidate();
        assert_eq!(create_user(&spi, &ada(), id).unwrap(), Some(id));
        assert_eq!(create_user(&spi, &ada(), candidate()).unwrap(), None);
        for find in [find_user, find_user_now, lock_user] {
            assert_eq!(find(&spi, &ada()).unwrap(), Some(id));
            assert_eq!(find(&spi, &eve).unwrap(), None);
        }
    }

    #[pg_test]
    fn a_member_gets_the_default_roles_or_the_named_ones() {
        pgrx::Spi::run(ACME).unwrap();
        let spi = Spi::connect(CallMemory::of_test()).unwrap();
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
        let spi = Spi::connect(CallMemory::of_test()).unwrap();
        let membership = member_of_acme(&spi, None);
        let json = serde_json::to_string(&membership).unwrap();
        assert_eq!(
            json,
            r#"{"organizationId":"acme","status":"organization_missing","roleIds":[]}"#
        );
    }
}
