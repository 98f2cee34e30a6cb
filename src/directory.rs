//! Users, organizations and memberships. The door is narrow, so that an application's own function
//! may take the directory's place later: a user's id leaves as text.

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

use crate::email::Email;
use crate::fmgr::pg_uuid;
use crate::raise::{Failure, Report};
use crate::statements::{Parameters, Row, Spi, statements};

statements! {
    FIND_USER(TEXTOID) = c"
        SELECT u.id FROM magic_link.users AS u WHERE u.email = $1";

    LOCK_USER(UUIDOID) = c"
        SELECT u.id FROM magic_link.users AS u WHERE u.id = $1 FOR KEY SHARE OF u";

    INSERT_USER(UUIDOID, TEXTOID) = c"
        INSERT INTO magic_link.users (id, email) VALUES ($1, $2)
            ON CONFLICT (email) DO NOTHING RETURNING id";

    // The lock keeps the organization until the foreign key is checked, and after.
    INSERT_MEMBERSHIP(TEXTOID, UUIDOID) = c"
        INSERT INTO magic_link.organization_memberships (organization_id, user_id)
        SELECT o.id, $2 FROM magic_link.organizations AS o WHERE o.id = $1 FOR KEY SHARE OF o
            ON CONFLICT (organization_id, user_id) DO NOTHING RETURNING organization_id";

    LOCK_MEMBERSHIP(TEXTOID, UUIDOID) = c"
        SELECT m.user_id FROM magic_link.organization_memberships AS m
         WHERE m.organization_id = $1 AND m.user_id = $2 FOR KEY SHARE OF m";

    // Locked in order of id, like the organizations: two redemptions cannot deadlock. A role that
    // is being deleted is waited for and passed over.
    GRANT_DEFAULT_ROLES(TEXTOID, UUIDOID) = c"
        INSERT INTO magic_link.organization_membership_roles (organization_id, user_id, organization_role_id)
        SELECT d.organization_id, $2, r.id
          FROM magic_link.organization_jit_roles AS d
          JOIN magic_link.organization_roles AS r ON r.id = d.organization_role_id
         WHERE d.organization_id = $1
         ORDER BY r.id FOR KEY SHARE OF r
            ON CONFLICT (organization_id, user_id, organization_role_id) DO NOTHING";

    GRANT_ROLE(TEXTOID, UUIDOID, TEXTOID) = c"
        INSERT INTO magic_link.organization_membership_roles (organization_id, user_id, organization_role_id)
        SELECT $1, $2, r.id FROM magic_link.organization_roles AS r WHERE r.id = $3 FOR KEY SHARE OF r
            ON CONFLICT (organization_id, user_id, organization_role_id) DO NOTHING";

    HELD_ROLES(TEXTOID, UUIDOID) = c"
        SELECT m.organization_role_id FROM magic_link.organization_membership_roles AS m
         WHERE m.organization_id = $1 AND m.user_id = $2
         ORDER BY m.organization_role_id";

    ORGANIZATIONS_OF_DOMAIN(TEXTOID) = c"
        SELECT d.organization_id FROM magic_link.organization_jit_email_domains AS d
         WHERE d.email_domain = $1";

    FIND_ORGANIZATION(TEXTOID) = c"
        SELECT o.id FROM magic_link.organizations AS o WHERE o.id = $1";

    FIND_ROLE(TEXTOID) = c"
        SELECT r.id FROM magic_link.organization_roles AS r WHERE r.id = $1";
}

/// A user's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserId(Uuid);

impl UserId {
    /// An id for a user who may be created.
    pub fn from_v7(id: Uuid) -> Self {
        Self(id)
    }

    fn read(row: &Row) -> Result<Self, Failure> {
        let id: pgrx::Uuid = row.required(1)?;
        Ok(Self(Uuid::from_bytes(*id.as_bytes())))
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
    let Some(row) = spi.row(&FIND_USER, Parameters::of(email.as_str()))? else {
        return Ok(None);
    };
    UserId::read(&row).map(Some)
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
            return Ok((UserId::read(&row)?, true));
        }
        if let Some(user) = find_user(spi, email)? {
            return Ok((user, false));
        }
    }
    Err(Report::suppressed("users").into())
}

/// Keeps a user from being deleted until the end of the transaction; false where it is gone already.
pub fn lock_user(spi: &Spi, user: UserId) -> Result<bool, Failure> {
    spi.any(&LOCK_USER, Parameters::of(user.parameter()))
}

/// Makes the user a member with the organization's default roles, or with `roles` in their place.
/// Who is a member keeps all roles and gains what is missing.
pub fn join(
    spi: &Spi,
    user: UserId,
    organization_id: &str,
    roles: Option<&[String]>,
) -> Result<Membership, Failure> {
    let status = add_member(spi, user, organization_id)?;
    let role_ids = match status {
        MembershipStatus::OrganizationMissing => vec![],
        MembershipStatus::Added | MembershipStatus::AlreadyMember => {
            grant(spi, user, organization_id, roles)?;
            held_roles(spi, user, organization_id)?
        }
    };
    Ok(Membership {
        organization_id: organization_id.to_owned(),
        status,
        role_ids,
    })
}

fn add_member(spi: &Spi, user: UserId, organization_id: &str) -> Result<MembershipStatus, Failure> {
    for _ in 0..ATTEMPTS {
        if spi.any(&INSERT_MEMBERSHIP, membership(organization_id, user))? {
            return Ok(MembershipStatus::Added);
        }
        if spi.any(&LOCK_MEMBERSHIP, membership(organization_id, user))? {
            return Ok(MembershipStatus::AlreadyMember);
        }
        if !organization_exists(spi, organization_id)? {
            return Ok(MembershipStatus::OrganizationMissing);
        }
    }
    Err(Report::suppressed("organization_memberships").into())
}

fn grant(
    spi: &Spi,
    user: UserId,
    organization_id: &str,
    roles: Option<&[String]>,
) -> Result<(), Failure> {
    let member = || membership(organization_id, user);
    let Some(roles) = roles else {
        return spi.execute(&GRANT_DEFAULT_ROLES, member()).map(drop);
    };
    roles.iter().try_for_each(|role| {
        spi.execute(&GRANT_ROLE, member().and(role.as_str()))
            .map(drop)
    })
}

fn held_roles(spi: &Spi, user: UserId, organization_id: &str) -> Result<Vec<String>, Failure> {
    spi.run(&HELD_ROLES, membership(organization_id, user))?
        .map(|row| row.required(1))
        .collect()
}

/// The organizations that a user created with such an address joins.
pub fn organizations_of_domain(spi: &Spi, email: &Email) -> Result<Vec<String>, Failure> {
    spi.run(&ORGANIZATIONS_OF_DOMAIN, Parameters::of(email.domain()))?
        .map(|row| row.required(1))
        .collect()
}

pub fn organization_exists(spi: &Spi, id: &str) -> Result<bool, Failure> {
    spi.any(&FIND_ORGANIZATION, Parameters::of(id))
}

pub fn role_exists(spi: &Spi, id: &str) -> Result<bool, Failure> {
    spi.any(&FIND_ROLE, Parameters::of(id))
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
        let (user, _) = find_or_create_user(spi, &ada(), candidate()).unwrap();
        join(spi, user, "acme", roles).unwrap()
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
