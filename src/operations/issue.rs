//! Creating a token: the one place where the ledger and the directory meet on the way in.

use uuid::Uuid;

use crate::operations::address_limits::{self, Full};
use crate::operations::tables::memberships;
use crate::operations::tables::one_time_tokens::{self, Terms};
use crate::postgres::advisory_lock::lock_addresses;
use crate::postgres::clock::{Moment, fill_random, out_of_range};
use crate::postgres::datum::Jsonb;
use crate::postgres::error::{Error, SqlState};
use crate::postgres::settings;
use crate::postgres::spi::Spi;
use domain::context::{Context, shown};
use domain::email::Email;
use domain::token::{NoToken, Token};

/// How long a token lives, in seconds: at least 1, at most `magic_link.max_expires_in`.
#[derive(Clone, Copy)]
pub struct Lifetime(i32);

impl Lifetime {
    pub fn new(expires_in: i32) -> Result<Self, Error> {
        let longest = settings::max_expires_in();
        if (1..=longest).contains(&expires_in) {
            return Ok(Self(expires_in));
        }
        Err(Error::invalid(
            "lifetime",
            format!("expires_in must be from 1 to {longest} seconds."),
        )
        .hint("The setting magic_link.max_expires_in is the longest life."))
    }
}

/// Ten minutes, or less where nothing as long may be asked for.
impl Default for Lifetime {
    fn default() -> Self {
        Self(settings::max_expires_in().min(600))
    }
}

/// What a caller asks tokens for.
pub struct Order<'c> {
    pub lifetime: Lifetime,
    /// What the context means, and the context itself.
    pub meaning: Context,
    pub context: Jsonb<'c>,
}

/// A token as its creator sees it, this once.
pub struct Issued {
    pub id: Uuid,
    pub token: Token,
    pub created_at: Moment,
    pub expires_at: Moment,
}

/// Issues a token for an address.
pub fn create(spi: &Spi, email: &Email, order: &Order) -> Result<Issued, Error> {
    let emails = std::slice::from_ref(email);
    lock_where_limited(emails);
    check_references(spi, &order.meaning)?;
    if let Some(full) = address_limits::make_room(spi, emails, order.meaning.interaction_event())? {
        return Err(too_many_active(&full));
    }
    let period = Period::new(order.lifetime);
    let token = period.draw()?;
    let id = one_time_tokens::insert(spi, &token, email, &period.terms(order)?)?;
    Ok(period.issued(id, token))
}

/// Issues a token for each of several addresses, no two of them the same; all or none.
pub fn create_all(spi: &Spi, emails: &[Email], order: &Order) -> Result<Vec<Issued>, Error> {
    lock_where_limited(emails);
    check_references(spi, &order.meaning)?;
    if let Some(full) = address_limits::make_room(spi, emails, order.meaning.interaction_event())? {
        return Err(at(full.place, too_many_active(&full)));
    }
    let period = Period::new(order.lifetime);
    let tokens: Vec<Token> = emails
        .iter()
        .map(|_| period.draw())
        .collect::<Result<_, _>>()?;
    let ids = one_time_tokens::insert_all(spi, &tokens, emails, &period.terms(order)?)?;
    Ok(ids
        .into_iter()
        .zip(tokens)
        .map(|(id, token)| period.issued(id, token))
        .collect())
}

/// Before anything is looked up: who creates for one of the addresses waits until the transaction ends.
fn lock_where_limited(emails: &[Email]) {
    if settings::limit_addresses() {
        lock_addresses(emails.iter().map(Email::as_str));
    }
}

/// From when to when a token lives.
struct Period {
    created_at: Moment,
    expires_at: Moment,
}

impl Period {
    fn new(lifetime: Lifetime) -> Self {
        let created_at = Moment::now();
        Self {
            created_at,
            expires_at: created_at.plus_seconds(lifetime.0),
        }
    }

    fn draw(&self) -> Result<Token, Error> {
        Token::draw(self.created_at.unix_millis(), fill_random).map_err(|error| match error {
            NoToken::ClockOutOfRange => out_of_range(),
            NoToken::Random(failure) => failure,
        })
    }

    fn terms<'a>(&self, order: &'a Order<'a>) -> Result<Terms<'a>, Error> {
        Ok(Terms {
            meaning: &order.meaning,
            context: order.context,
            created_at: self.created_at.timestamp()?,
            expires_at: self.expires_at.timestamp()?,
        })
    }

    fn issued(&self, id: Uuid, token: Token) -> Issued {
        Issued {
            id,
            token,
            created_at: self.created_at,
            expires_at: self.expires_at,
        }
    }
}

/// OT008.
fn too_many_active(full: &Full) -> Error {
    let limit = full.limit;
    Error::new(
        SqlState::new("OT008"),
        "the address has too many active one-time tokens",
    )
    .detail(format!("magic_link.max_active_tokens allows {limit}."))
    .hint(match full.seconds {
        None => "They never expire: revoke them.".to_owned(),
        Some(1) => "Try again in 1 second.".to_owned(),
        Some(seconds) => format!("Try again in {seconds} seconds."),
    })
}

/// Says which of several addresses a report is about, counted from 1.
pub fn at(place: i64, report: Error) -> Error {
    let detail = report.detail.as_deref().unwrap_or_default();
    let detail = format!("emails[{place}]: {detail}");
    report.detail(detail)
}

/// 23503 where the context names an organization or a role that is not there.
fn check_references(spi: &Spi, meaning: &Context) -> Result<(), Error> {
    for id in meaning.organization_ids() {
        if !memberships::organization_exists(spi, id)? {
            return Err(unknown("jitOrganizationIds", "organization", id));
        }
    }
    for id in meaning.organization_role_ids().values().flatten() {
        if !memberships::role_exists(spi, id)? {
            return Err(unknown("organizationRoleIds", "organization role", id));
        }
    }
    Ok(())
}

fn unknown(key: &str, what: &str, id: &str) -> Error {
    Error::new(
        SqlState::FOREIGN_KEY_VIOLATION,
        format!("the context names an unknown {what}"),
    )
    .detail(format!(
        "\"{key}\" names {}, which does not exist.",
        shown(id)
    ))
}
