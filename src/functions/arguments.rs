//! Arguments that several functions take, read and checked.

use std::collections::HashMap;

use domain::context::{Context, InteractionEvent};
use domain::email::Email;
use domain::lifetime::Lifetime;
use domain::token::Token;
use pgrx::check_for_interrupts;

use crate::operations::issue::{IssueRequest, at};
use crate::postgres::call::Call;
use crate::postgres::error::Error;
use crate::postgres::jsonb::JsonbDatum;
use crate::postgres::settings;

pub fn email(call: &Call, position: usize) -> Result<Email, Error> {
    let raw = call.required_text(position, "email")?;
    Email::parse(raw).map_err(|why| Error::invalid("e-mail address", why))
}

/// More take memory in proportion, and time in which nothing else can be done.
const MAX_EMAILS: usize = 50_000;

/// Addresses, at least one and each once (22023), none of them NULL (22004).
pub fn emails(call: &Call, position: usize) -> Result<Vec<Email>, Error> {
    let array = call
        .texts(position)
        .ok_or_else(|| Error::null_argument("emails"))?;
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
        let text = text?.ok_or_else(|| Error::null_argument(&format!("emails[{place}]")))?;
        let email =
            Email::parse(text).map_err(|why| at(place, Error::invalid("e-mail address", why)))?;
        if let Some(first) = places.insert(email.clone(), place) {
            let why = format!("It is the same address as emails[{first}].");
            return Err(at(place, Error::invalid("emails", why)));
        }
        emails.push(email);
    }
    Ok(emails)
}

pub fn interaction_event(call: &Call, position: usize) -> Result<Option<InteractionEvent>, Error> {
    let event = call
        .text(position)?
        .map(InteractionEvent::parse)
        .transpose();
    event.map_err(|why| Error::invalid("interaction_event", why))
}

/// What is asked for beside the addresses: (…, expires_in, context).
pub fn issue_request(call: &Call) -> Result<IssueRequest<'_>, Error> {
    let (context, meaning) = context(call, 2)?;
    Ok(IssueRequest {
        lifetime: lifetime(call, 1)?,
        context,
        meaning,
    })
}

fn lifetime(call: &Call, position: usize) -> Result<Lifetime, Error> {
    let longest = settings::max_expires_in();
    let Some(seconds) = call.integer(position) else {
        return Ok(Lifetime::default_within(longest));
    };
    Lifetime::new(seconds, longest).map_err(|why| {
        Error::invalid("lifetime", why)
            .hint("The setting magic_link.max_expires_in is the longest life.")
    })
}

pub fn well_formed_token(call: &Call, position: usize) -> Result<Token, Error> {
    Token::parse(call.required_text(position, "token")?).ok_or_else(|| {
        let shape = "A token is 32 characters: digits, A to Z and a to z.";
        Error::invalid("one-time token", shape)
    })
}

/// The context as it is, and what it means.
fn context(call: &Call, position: usize) -> Result<(JsonbDatum<'_>, Context), Error> {
    let context = match call.jsonb(position) {
        Some(context) => context,
        None => JsonbDatum::empty(call.memory())?,
    };
    match context.read_text(Context::parse)? {
        Ok(meaning) => Ok((context, meaning)),
        Err(why) => Err(Error::invalid("context", why)),
    }
}
