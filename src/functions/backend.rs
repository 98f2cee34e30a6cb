//! The functions that SQL calls: they read arguments, ask a room, and answer. `sql/functions.sql`
//! declares them, with their defaults and their documentation.

use std::collections::HashMap;

use pgrx::datum::TimestampWithTimeZone;
use pgrx::{IntoDatum, check_for_interrupts, pg_sys};

use crate::operations::issue::{self, Issued, Lifetime, Order};
use crate::operations::redeem::{self, Redemption, Release};
use crate::operations::revoke::{self, BatchSize, Cutoff, Events, Revoker};
use crate::operations::session_switch;
use crate::operations::tables::one_time_tokens::Claim;
use crate::postgres::advisory_lock::lock_addresses;
use crate::postgres::call::{Answer, Call, Columns, door, forbid_in_read_only_transaction};
use crate::postgres::clock::Moment;
use crate::postgres::datum::{Column, Jsonb, pg_uuid};
use crate::postgres::error::{Error, SqlState};
use crate::postgres::spi::Spi;
use domain::context::{Context, InteractionEvent};
use domain::email::Email;
use domain::link;
use domain::outcome::{Outcome, Refusal};
use domain::token::Token;
use domain::token_row;

// As `one_time_token_is_sound`: constraints call it as whoever writes.
door!(normalize_email(1) for anybody);
fn normalize_email(call: &Call) -> Result<Answer, Error> {
    Ok(email(call, 0)?.as_str().into_datum())
}

door!(one_time_token_id(1));
fn one_time_token_id(call: &Call) -> Result<Answer, Error> {
    let token = well_formed_token(call, 0)?;
    Ok(pg_uuid(token.id(&token.hash())).into_datum())
}

// PostgreSQL calls it whoever writes to the ledger.
door!(one_time_token_is_sound(1) for anybody);
fn one_time_token_is_sound(call: &Call) -> Result<Answer, Error> {
    const COLUMNS: [Column; 9] = [
        (c"token_hash", pg_sys::BYTEAOID),
        (c"created_at", pg_sys::TIMESTAMPTZOID),
        (c"expires_at", pg_sys::TIMESTAMPTZOID),
        (c"failed_attempts", pg_sys::INT4OID),
        (c"consumed_at", pg_sys::TIMESTAMPTZOID),
        (c"consumed_by", pg_sys::TEXTOID),
        (c"revoked_at", pg_sys::TIMESTAMPTZOID),
        (c"user_created", pg_sys::BOOLOID),
        (c"memberships", pg_sys::JSONBOID),
    ];
    let token = call.fields(0, &COLUMNS)?;
    let token = token.ok_or_else(|| Error::null("one_time_token"))?;
    let row = token_row::Row {
        token_hash_length: token.byte_length(0)?,
        created_at: token.get::<Moment>(1)?,
        expires_at: token.get(2)?,
        failed_attempts: token.get(3)?,
        has_consumed_at: token.has(4),
        has_consumed_by: token.has(5),
        has_revoked_at: token.has(6),
        has_user_created: token.has(7),
        has_memberships: token.has(8),
    };
    Ok(row.is_sound().into_datum())
}

door!(compose_magic_link(6));
fn compose_magic_link(call: &Call) -> Result<Answer, Error> {
    let base_url = call.required_text(0, "base_url")?;
    let token = well_formed_token(call, 1)?;
    let email = email(call, 2)?;
    let (token_param, email_param) = (call.text(4)?, call.text(5)?);
    let compose = |params: &str| {
        link::compose(
            base_url,
            token.as_str(),
            email.as_str(),
            params,
            token_param.unwrap_or("token"),
            email_param.unwrap_or("email"),
        )
    };
    let link = match call.jsonb(3) {
        Some(params) => params.read_text(compose)?,
        None => compose("{}"),
    };
    let link = link.map_err(|why| Error::invalid("magic link", why))?;
    Ok(link.into_datum())
}

door!(create_one_time_token(3));
fn create_one_time_token(call: &Call) -> Result<Answer, Error> {
    forbid_in_read_only_transaction(c"create_one_time_token()");
    let email = email(call, 0)?;
    let order = order(call)?;
    let answer = call.row_type()?;
    let token = Spi::with(call.memory(), |spi| issue::create(spi, &email, &order))?;
    answer.row(issued(&token, &email, order.context)?)
}

door!(create_one_time_tokens(3));
fn create_one_time_tokens(call: &Call) -> Result<Answer, Error> {
    forbid_in_read_only_transaction(c"create_one_time_tokens()");
    let emails = emails(call, 0)?;
    let order = order(call)?;
    let answer = call.row_set();
    let tokens = Spi::with(call.memory(), |spi| issue::create_all(spi, &emails, &order))?;
    let addressed = tokens.iter().zip(&emails);
    answer.fill(addressed.map(|(token, email)| issued(token, email, order.context)))
}

// As 0.1 declares it, and as 0.2 does; so the next two.
door!(redeem_one_time_token(3) = |call| redeem(call, Release::V0_1));
door!(redeem_one_time_token_0_2(3) = |call| redeem(call, Release::V0_2));
fn redeem(call: &Call, release: Release) -> Result<Answer, Error> {
    forbid_in_read_only_transaction(c"redeem_one_time_token()");
    let claimant = Claimant::read(call)?;
    let answer = call.row_type()?;
    let redemption = claimant.ask(|spi, claim| redeem::redeem(spi, claim, release))?;
    let redemption = redemption.map_err(Error::from)?;
    answer.row(redeemed(Columns::default(), &claimant, &redemption))
}

door!(try_redeem_one_time_token(3) = |call| try_redeem(call, Release::V0_1));
door!(try_redeem_one_time_token_0_2(3) = |call| try_redeem(call, Release::V0_2));
fn try_redeem(call: &Call, release: Release) -> Result<Answer, Error> {
    forbid_in_read_only_transaction(c"try_redeem_one_time_token()");
    let claimant = Claimant::read(call)?;
    let answer = call.row_type()?;
    let redemption = claimant.ask(|spi, claim| redeem::try_redeem(spi, claim, release))?;
    answer.row(match redemption {
        Ok(redemption) => redeemed(Columns::default().and("ok"), &claimant, &redemption),
        Err(refusal) => refused(Columns::default().and(refusal.as_str())),
    })
}

door!(check_one_time_token(3) = |call| check(call, Release::V0_1));
door!(check_one_time_token_0_2(3) = |call| check(call, Release::V0_2));
fn check(call: &Call, release: Release) -> Result<Answer, Error> {
    let claimant = Claimant::read(call)?;
    let outcome = claimant.ask(|spi, claim| redeem::check(spi, claim, release).map(Ok))?;
    Ok(outcome
        .unwrap_or_else(Outcome::Refused)
        .as_str()
        .into_datum())
}

door!(session_switch_decision(4));
fn session_switch_decision(call: &Call) -> Result<Answer, Error> {
    let token = Token::parse(call.required_text(0, "token")?);
    let email = email(call, 1)?;
    let session_email = session_switch::session_email(call.text(2)?)?;
    let prompt = call.text(3)?;
    let answer = call.row_type()?;
    let decision = match token {
        Some(token) => {
            let claim = Claim::new(&token, &email, None);
            Spi::with(call.memory(), |spi| {
                session_switch::decide(spi, &claim, &session_email, prompt)
            })?
        }
        None => Refusal::TokenNotFound.into(),
    };
    answer.row(
        Columns::default()
            .and(decision.decision)
            .and(decision.reason),
    )
}

door!(revoke_one_time_token(1));
fn revoke_one_time_token(call: &Call) -> Result<Answer, Error> {
    forbid_in_read_only_transaction(c"revoke_one_time_token()");
    let id = call.required_uuid(0, "id")?;
    let status = Spi::with(call.memory(), |spi| revoke::revoke(spi, id))?;
    let status =
        status.ok_or_else(|| Error::new(SqlState::NO_DATA, "no one-time token has this id"))?;
    Ok(status.as_str().into_datum())
}

door!(revoke_one_time_tokens(2));
fn revoke_one_time_tokens(call: &Call) -> Result<Answer, Error> {
    forbid_in_read_only_transaction(c"revoke_one_time_tokens()");
    let emails = [email(call, 0)?];
    let event = interaction_event(call, 1)?;
    let events = match &event {
        Some(event) => Events::Only(Some(event)),
        None => Events::Any,
    };
    let revoked = Spi::with(call.memory(), |spi| {
        lock_addresses(emails.iter().map(Email::as_str));
        revoke::revoke_all(spi, &emails, events, Revoker::Role)
    })?;
    Ok((revoked as i64).into_datum())
}

door!(delete_one_time_token(1));
fn delete_one_time_token(call: &Call) -> Result<Answer, Error> {
    forbid_in_read_only_transaction(c"delete_one_time_token()");
    let id = call.required_uuid(0, "id")?;
    let deleted = Spi::with(call.memory(), |spi| revoke::delete(spi, id))?;
    Ok(deleted.into_datum())
}

door!(purge_one_time_tokens(2));
fn purge_one_time_tokens(call: &Call) -> Result<Answer, Error> {
    forbid_in_read_only_transaction(c"purge_one_time_tokens()");
    let retention = call.interval(0).ok_or_else(|| Error::null("retention"))?;
    let rows = call.integer(1).ok_or_else(|| Error::null("batch_size"))?;
    let batch_size = BatchSize::new(rows)?;
    let cutoff = Spi::with(call.memory(), |spi| Cutoff::new(spi, retention))?;
    Ok(revoke::purge(call.memory(), &cutoff, batch_size)?.into_datum())
}

/// Who presents a token: (token, email, interaction_event). What has not a token's shape is not
/// found, without a look.
struct Claimant<'c> {
    call: &'c Call,
    token: Option<Token>,
    email: Email,
    interaction_event: Option<InteractionEvent>,
}

impl<'c> Claimant<'c> {
    fn read(call: &'c Call) -> Result<Self, Error> {
        let token = call.required_text(0, "token")?;
        Ok(Self {
            call,
            email: email(call, 1)?,
            interaction_event: interaction_event(call, 2)?,
            token: Token::parse(token),
        })
    }

    fn ask<T>(
        &self,
        question: impl FnOnce(&Spi<'c>, &Claim) -> Result<Result<T, Refusal>, Error>,
    ) -> Result<Result<T, Refusal>, Error> {
        let Some(token) = &self.token else {
            return Ok(Err(Refusal::TokenNotFound));
        };
        let claim = Claim::new(token, &self.email, self.interaction_event.as_ref());
        Spi::with(self.call.memory(), |spi| question(spi, &claim))
    }
}

fn issued(token: &Issued, email: &Email, context: Jsonb) -> Result<Columns, Error> {
    Ok(Columns::default()
        .and(pg_uuid(token.id))
        .and(token.token.as_str())
        .and(email.as_str())
        .and(context)
        .and("active")
        .and(token.created_at.timestamp()?)
        .and(token.expires_at.timestamp()?))
}

fn redeemed(columns: Columns, claimant: &Claimant, redemption: &Redemption) -> Columns {
    columns
        .and(pg_uuid(redemption.token_id))
        .and(redemption.user.to_string())
        .and(redemption.user_created)
        .and(claimant.email.as_str())
        .and(redemption.context)
        .and(redemption.memberships)
        .and(redemption.redeemed_at)
        .and(redemption.replayed)
}

/// The columns of `redeemed`, all NULL.
fn refused(columns: Columns) -> Columns {
    columns
        .and(None::<pgrx::Uuid>)
        .and(None::<String>)
        .and(None::<bool>)
        .and(None::<String>)
        .and(None::<Jsonb>)
        .and(None::<Jsonb>)
        .and(None::<TimestampWithTimeZone>)
        .and(None::<bool>)
}

fn email(call: &Call, position: usize) -> Result<Email, Error> {
    let raw = call.required_text(position, "email")?;
    Email::parse(raw).map_err(|why| Error::invalid("e-mail address", why))
}

/// More take memory in proportion, and time in which nothing else can be done.
const MAX_EMAILS: usize = 50_000;

/// Addresses, at least one and each once (22023), none of them NULL (22004).
fn emails(call: &Call, position: usize) -> Result<Vec<Email>, Error> {
    let array = call.texts(position).ok_or_else(|| Error::null("emails"))?;
    let wrong = match (array.dimensions, array.len()) {
        (0, _) => Some("The array is empty.".to_owned()),
        (1, 0..=MAX_EMAILS) => None,
        (1, _) => Some(format!("The array has more than {MAX_EMAILS} addresses.")),
        _ => Some("The array has more than one dimension.".to_owned()),
    };
    if let Some(wrong) = wrong {
        return Err(Error::invalid("emails", wrong));
    }
    let mut places = HashMap::with_capacity(array.len());
    let mut emails = Vec::with_capacity(array.len());
    for (place, text) in (1..).zip(array.iter()) {
        check_for_interrupts!();
        let text = text?.ok_or_else(|| Error::null(&format!("emails[{place}]")))?;
        let email = Email::parse(text)
            .map_err(|why| issue::at(place, Error::invalid("e-mail address", why)))?;
        if let Some(first) = places.insert(email.clone(), place) {
            let why = format!("It is the same address as emails[{first}].");
            return Err(issue::at(place, Error::invalid("emails", why)));
        }
        emails.push(email);
    }
    Ok(emails)
}

fn interaction_event(call: &Call, position: usize) -> Result<Option<InteractionEvent>, Error> {
    let event = call
        .text(position)?
        .map(InteractionEvent::parse)
        .transpose();
    event.map_err(|why| Error::invalid("interaction_event", why))
}

/// What is asked for beside the addresses: (…, expires_in, context).
fn order(call: &Call) -> Result<Order<'_>, Error> {
    let (context, meaning) = context(call, 2)?;
    Ok(Order {
        lifetime: call
            .integer(1)
            .map_or_else(|| Ok(Lifetime::default()), Lifetime::new)?,
        meaning,
        context,
    })
}

fn well_formed_token(call: &Call, position: usize) -> Result<Token, Error> {
    Token::parse(call.required_text(position, "token")?).ok_or_else(|| {
        let shape = "A token is 32 characters: digits, A to Z and a to z.";
        Error::invalid("one-time token", shape)
    })
}

/// The context as it is, and what it means.
fn context(call: &Call, position: usize) -> Result<(Jsonb<'_>, Context), Error> {
    let context = match call.jsonb(position) {
        Some(context) => context,
        None => Jsonb::empty(call.memory())?,
    };
    match context.read_text(Context::parse)? {
        Ok(meaning) => Ok((context, meaning)),
        Err(why) => Err(Error::invalid("context", why)),
    }
}
