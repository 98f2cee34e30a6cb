//! What is asked for, and the rows that it takes.

use magic_link_harness::postgres::Client;
use uuid::Uuid;

/// As many as make PostgreSQL look them up by their keys; a table of a page or two it reads whole.
const ORGANIZATIONS: usize = 1_000;
const ROLES: usize = 20;
pub const USERS: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Workload {
    Create,
    /// By a new user, into so many organizations with one default role each.
    Redeem(usize),
    /// By a known user, into no organization.
    SignIn,
    /// Of a token that was consumed before.
    Refused,
    Check,
    /// Of a link that is opened in a browser where somebody else is signed in.
    SessionSwitch,
}

impl Workload {
    pub const ALL: [Self; 7] = [
        Self::Create,
        Self::Redeem(1),
        Self::Redeem(10),
        Self::SignIn,
        Self::Refused,
        Self::Check,
        Self::SessionSwitch,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Redeem(1) => "redeem: new user, 1 organization",
            Self::Redeem(_) => "redeem: new user, 10 organizations",
            Self::SignIn => "redeem: known user (sign-in)",
            Self::Refused => "refused redemption",
            Self::Check => "check",
            Self::SessionSwitch => "session-switch decision",
        }
    }
}

/// One call's worth: a token and who presents it. To create one only the address is used.
#[derive(Debug, Clone)]
pub struct Case {
    pub token: String,
    pub id: Uuid,
    pub hash: Vec<u8>,
    pub email: String,
    /// Who is there, or who may be created.
    pub user: Uuid,
    pub organizations: Vec<Membership>,
}

#[derive(Debug, Clone)]
pub struct Membership {
    pub organization: String,
    /// Its one default role.
    pub role: String,
}

impl Membership {
    fn of(organization: usize) -> Self {
        Self {
            organization: format!("organization-{organization:04}"),
            role: format!("role-{:02}", organization % ROLES),
        }
    }
}

/// Fills the directory: organizations with a default role each, and users with a membership each.
pub fn fill(client: &mut Client) {
    let statements = format!(
        "INSERT INTO magic_link.organizations (id, name)
         SELECT format('organization-%s', lpad(n::text, 4, '0')), n FROM generate_series(0, {ORGANIZATIONS} - 1) AS n;
         INSERT INTO magic_link.organization_roles (id, name)
         SELECT format('role-%s', lpad(n::text, 2, '0')), n FROM generate_series(0, {ROLES} - 1) AS n;
         INSERT INTO magic_link.organization_jit_roles
         SELECT id, format('role-%s', lpad((name::int % {ROLES})::text, 2, '0')) FROM magic_link.organizations;
         INSERT INTO magic_link.users (email) SELECT format('user%s@example.com', n) FROM generate_series(0, {USERS} - 1) AS n;
         INSERT INTO magic_link.organization_memberships (organization_id, user_id)
         SELECT format('organization-%s', lpad((row_number() OVER (ORDER BY email) % {ORGANIZATIONS})::text, 4, '0')), id
           FROM magic_link.users;
         INSERT INTO magic_link.organization_membership_roles
         SELECT organization_id, user_id, organization_role_id
           FROM magic_link.organization_memberships JOIN magic_link.organization_jit_roles USING (organization_id);
         SELECT FROM magic_link.create_one_time_tokens(ARRAY(SELECT email FROM magic_link.users), 86400);
         VACUUM (ANALYZE)"
    );
    // VACUUM stands alone: not in the transaction that several statements at once are.
    for statement in statements.split(";\n") {
        client
            .batch_execute(statement)
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

/// As many cases of a workload, with tokens issued for them. `first` numbers them, so that no two
/// calls of this name the same user where each takes one of its own.
pub fn cases(client: &mut Client, workload: Workload, count: usize, first: usize) -> Vec<Case> {
    let emails: Vec<String> = (first..first + count)
        .map(|n| match workload {
            Workload::Create | Workload::Redeem(_) => format!("new{n}@example.com"),
            _ => format!("user{}@example.com", n % USERS),
        })
        .collect();
    if workload == Workload::Create {
        return emails.into_iter().map(without_token).collect();
    }
    let memberships: Vec<Vec<Membership>> = (first..first + count)
        .map(|n| memberships(workload, n))
        .collect();
    let mut cases = issue(client, &emails, &memberships);
    if workload == Workload::Refused {
        consume(client, &cases);
    }
    if !matches!(workload, Workload::Redeem(_)) {
        find_users(client, &mut cases);
    }
    cases
}

fn memberships(workload: Workload, case: usize) -> Vec<Membership> {
    let Workload::Redeem(count) = workload else {
        return vec![];
    };
    let first = case * count;
    let mut numbers: Vec<usize> = (first..first + count).map(|n| n % ORGANIZATIONS).collect();
    numbers.sort_unstable();
    numbers.into_iter().map(Membership::of).collect()
}

fn without_token(email: String) -> Case {
    Case {
        token: String::new(),
        id: Uuid::new_v4(),
        hash: [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat(),
        email,
        user: Uuid::new_v4(),
        organizations: vec![],
    }
}

fn issue(client: &mut Client, emails: &[String], memberships: &[Vec<Membership>]) -> Vec<Case> {
    let contexts: Vec<String> = memberships
        .iter()
        .map(|memberships| {
            let ids: Vec<&str> = memberships
                .iter()
                .map(|m| m.organization.as_str())
                .collect();
            serde_json::json!({ "jitOrganizationIds": ids }).to_string()
        })
        .collect();
    // An address may be there twice, which the bulk call would refuse; and each has its own context.
    let issued = client.query(
        "SELECT t.token, t.id, sha256(t.token::bytea)
           FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS a (email, context, place)
          CROSS JOIN LATERAL magic_link.create_one_time_token(a.email, 86400, a.context::jsonb) AS t
          ORDER BY a.place",
        &[&emails, &contexts],
    );
    issued
        .unwrap_or_else(|error| panic!("no tokens: {error}"))
        .iter()
        .zip(emails)
        .zip(memberships)
        .map(|((row, email), memberships)| Case {
            token: row.get(0),
            id: row.get(1),
            hash: row.get(2),
            email: email.clone(),
            user: Uuid::new_v4(),
            organizations: memberships.clone(),
        })
        .collect()
}

fn consume(client: &mut Client, cases: &[Case]) {
    let tokens: Vec<&str> = cases.iter().map(|case| case.token.as_str()).collect();
    let emails: Vec<&str> = cases.iter().map(|case| case.email.as_str()).collect();
    client
        .query(
            "SELECT r.user_id FROM unnest($1::text[], $2::text[]) AS a (token, email)
              CROSS JOIN LATERAL magic_link.redeem_one_time_token(a.token, a.email) AS r",
            &[&tokens, &emails],
        )
        .unwrap_or_else(|error| panic!("the tokens are not redeemed: {error}"));
}

fn find_users(client: &mut Client, cases: &mut [Case]) {
    let emails: Vec<&str> = cases.iter().map(|case| case.email.as_str()).collect();
    let rows = client.query(
        "SELECT u.id FROM unnest($1::text[]) WITH ORDINALITY AS a (email, place)
           JOIN magic_link.users AS u ON u.email = a.email ORDER BY a.place",
        &[&emails],
    );
    let rows = rows.unwrap_or_else(|error| panic!("no users: {error}"));
    for (case, row) in cases.iter_mut().zip(rows) {
        case.user = row.get(0);
    }
}
