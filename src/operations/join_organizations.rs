//! Joining organizations: those that a redeemed token names, and those of the new user's e-mail domain.

use std::collections::{BTreeMap, BTreeSet};

use domain::context::Context;
use domain::email::Email;
use domain::user_id::UserId;
use serde::Serialize;

use super::MAX_ATTEMPTS;
use super::tables::memberships::{
    have_triggers, held_roles, insert_membership, insert_membership_if_missing, insert_role,
    insert_role_if_missing, lock_membership,
};
use super::tables::one_time_tokens::Consumed;
use super::tables::organizations::{
    default_roles, lock_organization, lock_role, organizations_of_domain,
};
use super::tables::users;
use crate::postgres::error::{Error, SqlState};
use crate::postgres::spi::SpiConnection;

/// A user, and whether this transaction created it.
#[derive(Clone, Copy)]
pub struct ResolvedUser {
    pub id: UserId,
    pub created: bool,
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

/// Joins the organizations that the token names, and those of the domain of an address, if there is one.
pub fn join_organizations(
    spi: &SpiConnection,
    user: ResolvedUser,
    consumed: &Consumed,
    domain_of: Option<&Email>,
) -> Result<Vec<Membership>, Error> {
    let meaning = meaning_of(consumed)?;
    let of_domain = || match domain_of {
        Some(email) => organizations_of_domain(spi, email),
        None => Ok(vec![]),
    };
    let named = &consumed.organization_ids;
    let mut wanted: BTreeSet<String> = named.iter().cloned().collect();
    wanted.extend(of_domain()?);
    let mut memberships = BTreeMap::new();
    for _ in 0..MAX_ATTEMPTS {
        if wanted.is_empty() {
            break;
        }
        let member = Member::new(user)?;
        let mut is_gone = false;
        for id in std::mem::take(&mut wanted) {
            let roles = meaning.organization_role_ids().get(&id);
            let membership = member.join(spi, &id, roles.map(Vec::as_slice))?;
            // Only what the token names is reported as missing.
            if membership.status == MembershipStatus::OrganizationMissing && !named.contains(&id) {
                is_gone = true;
            } else {
                memberships.insert(id, membership);
            }
        }
        if is_gone {
            // It may have been renamed, or replaced by another, while its lock was waited for.
            wanted.extend(of_domain()?);
            wanted.retain(|id| !memberships.contains_key(id));
        }
    }
    if !wanted.is_empty() {
        return Err(Error::concurrent_update());
    }
    Ok(memberships.into_values().collect())
}

/// The context was checked when the token was created, and only a change of the row by hand can have spoilt it. Where the
/// token names no organization it is not read.
fn meaning_of(consumed: &Consumed) -> Result<Context, Error> {
    if consumed.organization_ids.is_empty() {
        return Ok(Context::default());
    }
    consumed.context.read_text(Context::parse)?.map_err(|why| {
        let message = "the context of the one-time token was changed after its creation";
        Error::new(SqlState::DATA_CORRUPTED, message).detail(why)
    })
}

/// A user who joins organizations.
#[derive(Clone, Copy)]
struct Member {
    user: UserId,
    /// Nobody else can see the user, or write a membership of it: not another transaction, since this one created the
    /// user, and no trigger of the application's.
    is_unseen: bool,
    /// Triggers may insert the same rows, before or after us.
    triggers: bool,
}

impl Member {
    fn new(user: ResolvedUser) -> Result<Self, Error> {
        let triggers = have_triggers()? || user.created && users::has_triggers()?;
        Ok(Self {
            user: user.id,
            is_unseen: user.created && !triggers,
            triggers,
        })
    }

    /// Makes the user a member with the organization's default roles, or with `roles` in their place.
    /// Who is a member keeps all roles and gains what is missing.
    fn join(
        self,
        spi: &SpiConnection,
        organization_id: &str,
        roles: Option<&[String]>,
    ) -> Result<Membership, Error> {
        let status = self.add_membership(spi, organization_id)?;
        let role_ids = match status {
            MembershipStatus::OrganizationMissing => vec![],
            MembershipStatus::Added | MembershipStatus::AlreadyMember => {
                self.add_roles(spi, organization_id, roles, status)?
            }
        };
        Ok(Membership {
            organization_id: organization_id.to_owned(),
            status,
            role_ids,
        })
    }

    /// The lock keeps the organization until the foreign key is checked, and after.
    fn add_membership(
        self,
        spi: &SpiConnection,
        organization_id: &str,
    ) -> Result<MembershipStatus, Error> {
        if !lock_organization(spi, organization_id)? {
            return Ok(MembershipStatus::OrganizationMissing);
        }
        if self.is_unseen {
            // A third less to do than with a look and ON CONFLICT.
            insert_membership(spi, organization_id, self.user)?;
            return Ok(MembershipStatus::Added);
        }
        for _ in 0..MAX_ATTEMPTS {
            if lock_membership(spi, organization_id, self.user)? {
                return Ok(MembershipStatus::AlreadyMember);
            }
            if insert_membership_if_missing(spi, organization_id, self.user)? {
                return Ok(MembershipStatus::Added);
            }
        }
        Err(Error::row_suppressed("organization_memberships"))
    }

    /// Adds the roles that the member lacks, and answers all that it holds then. First all are locked, then all are
    /// written, each time in order of id: two redemptions cannot deadlock.
    fn add_roles(
        self,
        spi: &SpiConnection,
        organization_id: &str,
        roles: Option<&[String]>,
        status: MembershipStatus,
    ) -> Result<Vec<String>, Error> {
        // Nobody else sees this membership, or gives it a role.
        let is_unseen = status == MembershipStatus::Added && !self.triggers;
        let (insert, held): (InsertRole, _) = if is_unseen {
            (insert_role, vec![])
        } else {
            let held = held_roles(spi, organization_id, self.user)?;
            (insert_role_if_missing, held)
        };
        let added = match roles {
            Some(roles) => lock_roles(spi, roles, &held)?.locked,
            None => lock_default_roles(spi, organization_id, &held)?,
        };
        for role in &added {
            insert(spi, organization_id, self.user, role)?;
        }
        if is_unseen {
            return Ok(added);
        }
        held_roles(spi, organization_id, self.user)
    }
}

type InsertRole = fn(&SpiConnection, &str, UserId, &str) -> Result<(), Error>;

/// What locking roles came to.
struct LockedRoles {
    /// Those that are there, and stay until the end of the transaction; in order.
    locked: Vec<String>,
    /// Whether one of them was not there.
    any_missing: bool,
}

/// Locks these roles but for those that are held. One that is being deleted is waited for and passed over.
fn lock_roles(
    spi: &SpiConnection,
    roles: &[String],
    held: &[String],
) -> Result<LockedRoles, Error> {
    let (mut locked, mut any_missing) = (vec![], false);
    for role in roles.iter().filter(|role| !held.contains(role)) {
        if lock_role(spi, role)? {
            locked.push(role.clone());
        } else {
            any_missing = true;
        }
    }
    Ok(LockedRoles {
        locked,
        any_missing,
    })
}

/// Locks the organization's default roles. One that is not there once its lock was waited for may have been
/// renamed, or replaced by another: then they are looked up again.
fn lock_default_roles(
    spi: &SpiConnection,
    organization_id: &str,
    held: &[String],
) -> Result<Vec<String>, Error> {
    let mut roles = default_roles(spi, organization_id)?;
    for _ in 0..MAX_ATTEMPTS {
        let result = lock_roles(spi, &roles, held)?;
        if !result.any_missing {
            return Ok(result.locked);
        }
        let roles_now = default_roles(spi, organization_id)?;
        if roles_now == roles {
            return Ok(result.locked);
        }
        roles = roles_now;
    }
    Err(Error::concurrent_update())
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::*;
    use crate::operations::tables::users::{create_user, find_user};
    use crate::postgres::datum::CallMemory;
    use crate::postgres::random::new_uuid;

    const ACME: &str = "
        INSERT INTO magic_link.organizations VALUES ('acme', 'Acme');
        INSERT INTO magic_link.organization_roles VALUES ('editor', 'Editor'), ('member', 'Member'), ('viewer', 'Viewer');
        INSERT INTO magic_link.organization_jit_roles VALUES ('acme', 'member'), ('acme', 'editor')";

    fn ada() -> Email {
        Email::parse("ada@example.com").unwrap()
    }

    fn member_of_acme(spi: &SpiConnection, roles: Option<&[String]>) -> Membership {
        let proposed_id = UserId::new(new_uuid().unwrap());
        let created = create_user(spi, &ada(), proposed_id).unwrap();
        let user = ResolvedUser {
            id: created.or_else(|| find_user(spi, &ada()).unwrap()).unwrap(),
            created: created.is_some(),
        };
        let member = Member::new(user).unwrap();
        member.join(spi, "acme", roles).unwrap()
    }

    #[pg_test]
    fn a_member_gets_the_default_roles_or_the_named_ones() {
        pgrx::Spi::run(ACME).unwrap();
        let spi = SpiConnection::connect(CallMemory::of_test()).unwrap();
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
        let spi = SpiConnection::connect(CallMemory::of_test()).unwrap();
        let membership = member_of_acme(&spi, None);
        let json = serde_json::to_string(&membership).unwrap();
        assert_eq!(
            json,
            r#"{"organizationId":"acme","status":"organization_missing","roleIds":[]}"#
        );
    }
}
