//! Redeeming a token, and asking what that would say.

use domain::context::InteractionEvent;
use domain::email::Email;
use domain::outcome::Outcome;
use domain::presented_token::PresentedToken;
use domain::refusal::Refusal;
use domain::token::Token;
use pgrx::IntoDatum;
use pgrx::datum::TimestampWithTimeZone as Timestamp;
use pgrx::pg_sys::Datum;

use super::arguments::{email, interaction_event};
use crate::operations::check;
use crate::operations::redeem::{self, Redemption};
use crate::operations::release::Release;
use crate::postgres::call::{Call, forbid_in_read_only_transaction};
use crate::postgres::datum::pg_uuid;
use crate::postgres::entry_point::sql_function;
use crate::postgres::error::Error;
use crate::postgres::jsonb::JsonbDatum;
use crate::postgres::row_builder::RowBuilder;
use crate::postgres::spi::SpiConnection;

// As release 0.1 declares it, and as 0.2 does; so the next two.
sql_function!(redeem_one_time_token(3) = |call| redeem(call, Release::V0_1));
sql_function!(redeem_one_time_token_0_2(3) = |call| redeem(call, Release::V0_2));
fn redeem(call: &Call, release: Release) -> Result<Option<Datum>, Error> {
    forbid_in_read_only_transaction(c"redeem_one_time_token()");
    let request = RedeemRequest::read(call)?;
    let row_type = call.row_type()?;
    let redemption = request.run(|spi, presented| redeem::redeem(spi, presented, release))??;
    row_type.row(redeemed(RowBuilder::default(), &request, &redemption))
}

sql_function!(try_redeem_one_time_token(3) = |call| try_redeem(call, Release::V0_1));
sql_function!(try_redeem_one_time_token_0_2(3) = |call| try_redeem(call, Release::V0_2));
fn try_redeem(call: &Call, release: Release) -> Result<Option<Datum>, Error> {
    forbid_in_read_only_transaction(c"try_redeem_one_time_token()");
    let request = RedeemRequest::read(call)?;
    let row_type = call.row_type()?;
    let row = RowBuilder::default();
    let redemption = request.run(|spi, presented| redeem::try_redeem(spi, presented, release))?;
    row_type.row(match redemption {
        Ok(redemption) => redeemed(row.column(Outcome::Ok.as_str()), &request, &redemption),
        Err(refusal) => refused(row.column(refusal.as_str())),
    })
}

sql_function!(check_one_time_token(3) = |call| check(call, Release::V0_1));
sql_function!(check_one_time_token_0_2(3) = |call| check(call, Release::V0_2));
fn check(call: &Call, release: Release) -> Result<Option<Datum>, Error> {
    let request = RedeemRequest::read(call)?;
    let outcome = request.run(|spi, presented| check::check(spi, presented, release).map(Ok))?;
    let outcome = outcome.unwrap_or_else(Outcome::Refused);
    Ok(outcome.as_str().into_datum())
}

/// The arguments (token, email, interaction_event).
struct RedeemRequest<'c> {
    call: &'c Call,
    /// None where the text has not a token's shape.
    token: Option<Token>,
    email: Email,
    interaction_event: Option<InteractionEvent>,
}

impl<'c> RedeemRequest<'c> {
    fn read(call: &'c Call) -> Result<Self, Error> {
        let token = call.required_text(0, "token")?;
        Ok(Self {
            call,
            email: email(call, 1)?,
            interaction_event: interaction_event(call, 2)?,
            token: Token::parse(token),
        })
    }

    /// Runs an operation with the token; what has not a token's shape is not found, without a look.
    fn run<T>(
        &self,
        operation: impl FnOnce(&SpiConnection<'c>, &PresentedToken) -> Result<Result<T, Refusal>, Error>,
    ) -> Result<Result<T, Refusal>, Error> {
        let Some(token) = &self.token else {
            return Ok(Err(Refusal::TokenNotFound));
        };
        let presented = PresentedToken::new(token, &self.email, self.interaction_event.as_ref());
        SpiConnection::with(self.call.memory(), |spi| operation(spi, &presented))
    }
}

fn redeemed(row: RowBuilder, request: &RedeemRequest, redemption: &Redemption) -> RowBuilder {
    row.column(pg_uuid(redemption.token_id))
        .column(redemption.user.to_string())
        .column(redemption.user_created)
        .column(request.email.as_str())
        .column(redemption.context)
        .column(redemption.memberships)
        .column(redemption.redeemed_at)
        .column(redemption.replayed)
}

/// The columns of `redeemed`, all NULL.
fn refused(row: RowBuilder) -> RowBuilder {
    row.column(None::<pgrx::Uuid>)
        .column(None::<String>)
        .column(None::<bool>)
        .column(None::<String>)
        .column(None::<JsonbDatum>)
        .column(None::<JsonbDatum>)
        .column(None::<Timestamp>)
        .column(None::<bool>)
}
