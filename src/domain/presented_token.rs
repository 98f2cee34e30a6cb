//! A token as somebody presents it: for an address, and in an interaction event.

use uuid::Uuid;

use crate::context::InteractionEvent;
use crate::email::Email;
use crate::token::{Token, TokenHash};

pub struct PresentedToken<'a> {
    pub id: Uuid,
    pub hash: TokenHash,
    pub email: &'a Email,
    pub interaction_event: Option<&'a InteractionEvent>,
}

impl<'a> PresentedToken<'a> {
    #[must_use]
    pub fn new(
        token: &Token,
        email: &'a Email,
        interaction_event: Option<&'a InteractionEvent>,
    ) -> Self {
        let hash = token.hash();
        Self {
            id: token.id(&hash),
            hash,
            email,
            interaction_event,
        }
    }

    /// Whether redeeming may create the user. A token of an event is redeemed in this event alone, so the event that is
    /// presented decides.
    #[must_use]
    pub fn may_create_user(&self) -> bool {
        self.interaction_event
            .is_none_or(InteractionEvent::creates_users)
    }
}
