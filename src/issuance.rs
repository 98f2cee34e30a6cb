//! Creating a token: the one place where the ledger and the directory meet on the way in.

use uuid::Uuid;

use crate::context::{Context, shown};
use crate::directory;
use crate::email::Email;
use crate::fmgr::Jsonb;
use crate::ledger::{self, Issue};
use crate::raise::{Failure, Report, SqlState};
use crate::settings;
use crate::statements::Spi;
use crate::system::{Moment, fill_random, out_of_range};
use crate::token::{NoToken, Token};

/// How long a token lives, in seconds: at least 1, at most `magic_link.max_expires_in`.
#[derive(Clone, Copy)]
pub struct Lifetime(i32);

impl Lifetime {
    pub fn new(expires_in: i32) -> Result<Self, Failure> {
        let longest = settings::max_expires_in();
        if (1..=longest).contains(&expires_in) {
            return Ok(Self(expires_in));
        }
        Err(Report::invalid(
            "lifetime",
            format!("expires_in must be from 1 to {longest} seconds."),
        )
        .hint("The setting magic_link.max_expires_in is the longest life.")
        .into())
    }
}

/// Ten minutes, or less where nothing as long may be asked for.
impl Default for Lifetime {
    fn default() -> Self {
        Self(settings::max_expires_in().min(600))
    }
}

/// What a caller asks a token for.
pub struct Order<'a> {
    pub email: &'a Email,
    pub lifetime: Lifetime,
    /// What the context means, and the context itself.
    pub meaning: &'a Context,
    pub context: Jsonb,
}

/// A token as its creator sees it, this once.
pub struct Issued {
    pub id: Uuid,
    pub token: Token,
    pub created_at: Moment,
    pub expires_at: Moment,
}

pub fn create(spi: &Spi, order: &Order) -> Result<Issued, Failure> {
    check_references(spi, order.meaning)?;
    let created_at = Moment::now();
    let expires_at = created_at.plus_seconds(order.lifetime.0);
    let token =
        Token::draw(created_at.unix_millis(), fill_random).map_err(|error| match error {
            NoToken::ClockOutOfRange => out_of_range(),
            NoToken::Random(failure) => failure,
        })?;
    let issue = Issue {
        token: &token,
        email: order.email,
        meaning: order.meaning,
        context: order.context,
        created_at: created_at.timestamp()?,
        expires_at: expires_at.timestamp()?,
    };
    Ok(Issued {
        id: ledger::insert(spi, issue)?,
        token,
        created_at,
        expires_at,
    })
}

/// 23503 where the context names an organization or a role that is not there.
fn check_references(spi: &Spi, meaning: &Context) -> Result<(), Failure> {
    for id in meaning.organization_ids() {
        if !directory::organization_exists(spi, id)? {
            return Err(unknown("jitOrganizationIds", "organization", id));
        }
    }
    for id in meaning.organization_role_ids().values().flatten() {
        if !directory::role_exists(spi, id)? {
            return Err(unknown("organizationRoleIds", "organization role", id));
        }
    }
    Ok(())
}

fn unknown(key: &str, what: &str, id: &str) -> Failure {
    Report::new(
        SqlState::FOREIGN_KEY_VIOLATION,
        format!("the context names an unknown {what}"),
    )
    .detail(format!(
        "\"{key}\" names {}, which does not exist.",
        shown(id)
    ))
    .into()
}
