//! Rows of new tokens.

use domain::context::{Context, InteractionEvent};
use domain::email::Email;
use domain::token::{Token, TokenHash};
use pgrx::datum::TimestampWithTimeZone as Timestamp;
use uuid::Uuid;

use crate::postgres::datum::pg_uuid;
use crate::postgres::error::Error;
use crate::postgres::jsonb::JsonbDatum;
use crate::postgres::prepared_statement::{Parameters, statements};
use crate::postgres::spi::SpiConnection;

statements! {
    INSERT(UUIDOID, BYTEAOID, TEXTOID, TEXTARRAYOID, TEXTOID, JSONBOID, TIMESTAMPTZOID, TIMESTAMPTZOID) = c"
        INSERT INTO magic_link.one_time_tokens
               (id, token_hash, email, organization_ids, interaction_event, context, created_at, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

    INSERT_ALL(UUIDARRAYOID, BYTEAARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, JSONBOID, TIMESTAMPTZOID, TIMESTAMPTZOID) = c"
        INSERT INTO magic_link.one_time_tokens
               (id, token_hash, email, organization_ids, interaction_event, context, created_at, expires_at)
        SELECT n.id, n.token_hash, n.email, $4, $5, $6, $7, $8
          FROM unnest($1, $2, $3) AS n (id, token_hash, email)";
}

/// What the tokens of one call have in common.
pub struct TokenAttributes<'a> {
    /// The context as it came, and what its keys mean.
    pub context: JsonbDatum<'a>,
    pub meaning: &'a Context,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

impl TokenAttributes<'_> {
    fn bind_to(&self, parameters: Parameters) -> Parameters {
        let event = self.meaning.interaction_event();
        parameters
            .bind(self.meaning.organization_ids().to_vec())
            .bind(event.map(InteractionEvent::as_str))
            .bind(self.context)
            .bind(self.created_at)
            .bind(self.expires_at)
    }
}

/// Inserts the row of a new token and answers its id.
pub fn insert(
    spi: &SpiConnection,
    token: &Token,
    email: &Email,
    attributes: &TokenAttributes,
) -> Result<Uuid, Error> {
    let hash = token.hash();
    let id = token.id(&hash);
    let parameters = Parameters::of(pg_uuid(id))
        .bind(hash.as_bytes())
        .bind(email.as_str());
    if spi.execute(&INSERT, attributes.bind_to(parameters))? == 0 {
        return Err(Error::row_suppressed("one_time_tokens"));
    }
    Ok(id)
}

/// The same for many tokens, each for the address in its place.
pub fn insert_all(
    spi: &SpiConnection,
    tokens: &[Token],
    emails: &[Email],
    attributes: &TokenAttributes,
) -> Result<Vec<Uuid>, Error> {
    let hashes: Vec<TokenHash> = tokens.iter().map(Token::hash).collect();
    let ids: Vec<Uuid> = tokens.iter().zip(&hashes).map(|(t, h)| t.id(h)).collect();
    let parameters = Parameters::of(ids.iter().copied().map(pg_uuid).collect::<Vec<_>>())
        .bind(hashes.iter().map(TokenHash::as_bytes).collect::<Vec<_>>())
        .bind(emails.iter().map(Email::as_str).collect::<Vec<_>>());
    let inserted = spi.execute(&INSERT_ALL, attributes.bind_to(parameters))?;
    if inserted != tokens.len() as u64 {
        return Err(Error::row_suppressed("one_time_tokens"));
    }
    Ok(ids)
}
