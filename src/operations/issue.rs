//! Creating tokens.

use std::slice;

use domain::context::{Context, shown};
use domain::email::Email;
use domain::lifetime::Lifetime;
use domain::token::{DrawError, Token};
use uuid::Uuid;

use super::address_limits::{address_at_limit, lock_where_limited};
use super::tables::one_time_tokens::{TokenAttributes, insert, insert_all};
use super::tables::organizations::{organization_exists, role_exists};
use crate::postgres::clock::{Moment, out_of_range};
use crate::postgres::error::{Error, SqlState};
use crate::postgres::jsonb::JsonbDatum;
use crate::postgres::random::fill_random;
use crate::postgres::spi::SpiConnection;

/// What a caller wants tokens for.
pub struct IssueRequest<'c> {
    pub lifetime: Lifetime,
    /// The context as it came, and what its keys mean.
    pub context: JsonbDatum<'c>,
    pub meaning: Context,
}

/// A new token. Nobody sees it again after its creator.
pub struct IssuedToken {
    pub id: Uuid,
    pub token: Token,
    pub created_at: Moment,
    pub expires_at: Moment,
}

/// Issues a token for an address.
pub fn issue(
    spi: &SpiConnection,
    email: &Email,
    request: &IssueRequest,
) -> Result<IssuedToken, Error> {
    let emails = slice::from_ref(email);
    lock_where_limited(emails);
    check_references(spi, &request.meaning)?;
    if let Some(address) = address_at_limit(spi, emails, request.meaning.interaction_event())? {
        return Err(Error::from(&address));
    }
    let validity = Validity::from_now(request.lifetime);
    let token = validity.draw_token()?;
    let id = insert(spi, &token, email, &validity.attributes(request)?)?;
    Ok(validity.issued(id, token))
}

/// Issues a token for each of several addresses, no two of them the same; all or none.
pub fn issue_all(
    spi: &SpiConnection,
    emails: &[Email],
    request: &IssueRequest,
) -> Result<Vec<IssuedToken>, Error> {
    lock_where_limited(emails);
    check_references(spi, &request.meaning)?;
    if let Some(address) = address_at_limit(spi, emails, request.meaning.interaction_event())? {
        return Err(at(address.place(), Error::from(&address)));
    }
    let validity = Validity::from_now(request.lifetime);
    let tokens: Vec<Token> = emails
        .iter()
        .map(|_| validity.draw_token())
        .collect::<Result<_, _>>()?;
    let ids = insert_all(spi, &tokens, emails, &validity.attributes(request)?)?;
    let issued = ids.into_iter().zip(tokens);
    Ok(issued
        .map(|(id, token)| validity.issued(id, token))
        .collect())
}

/// From when to when a token is valid.
struct Validity {
    created_at: Moment,
    expires_at: Moment,
}

impl Validity {
    fn from_now(lifetime: Lifetime) -> Self {
        let created_at = Moment::now();
        Self {
            created_at,
            expires_at: created_at.plus_seconds(lifetime.seconds()),
        }
    }

    fn draw_token(&self) -> Result<Token, Error> {
        Token::draw(self.created_at.unix_millis(), fill_random).map_err(|error| match error {
            DrawError::ClockOutOfRange => out_of_range(),
            DrawError::Random(error) => error,
        })
    }

    fn attributes<'a>(&self, request: &'a IssueRequest<'a>) -> Result<TokenAttributes<'a>, Error> {
        Ok(TokenAttributes {
            context: request.context,
            meaning: &request.meaning,
            created_at: self.created_at.timestamp()?,
            expires_at: self.expires_at.timestamp()?,
        })
    }

    fn issued(&self, id: Uuid, token: Token) -> IssuedToken {
        IssuedToken {
            id,
            token,
            created_at: self.created_at,
            expires_at: self.expires_at,
        }
    }
}

/// Says which of several addresses an error is about, counted from 1.
pub fn at(place: i64, error: Error) -> Error {
    let detail = error.detail.as_deref().unwrap_or_default();
    let detail = format!("emails[{place}]: {detail}");
    error.detail(detail)
}

/// 23503 where the context names an organization or a role that is not there.
fn check_references(spi: &SpiConnection, meaning: &Context) -> Result<(), Error> {
    for id in meaning.organization_ids() {
        if !organization_exists(spi, id)? {
            return Err(unknown("jitOrganizationIds", "organization", id));
        }
    }
    for id in meaning.organization_role_ids().values().flatten() {
        if !role_exists(spi, id)? {
            return Err(unknown("organizationRoleIds", "organization role", id));
        }
    }
    Ok(())
}

fn unknown(key: &str, what: &str, id: &str) -> Error {
    let message = format!("the context names an unknown {what}");
    let detail = format!("\"{key}\" names {}, which does not exist.", shown(id));
    Error::new(SqlState::FOREIGN_KEY_VIOLATION, message).detail(detail)
}
