//! A session as an application's driver has it: statements prepared once, values bound.

use std::collections::HashMap;

use magic_link_harness::postgres::{self, Client};

use crate::contestants::{Call, Contestant};

pub struct Session {
    pub client: Client,
    prepared: HashMap<&'static str, postgres::Statement>,
}

impl Session {
    pub fn new(mut client: Client, contestant: Contestant) -> Self {
        if let Some(setting) = contestant.session() {
            crate::server::run(&mut client, setting);
        }
        Self {
            client,
            prepared: HashMap::new(),
        }
    }

    pub fn call(&mut self, call: &Call) {
        if let Err(error) = self.try_call(call) {
            panic!("{call:?}: {error}");
        }
    }

    fn try_call(&mut self, call: &Call) -> Result<(), postgres::Error> {
        if call.in_one_transaction {
            self.client.batch_execute("BEGIN")?;
        }
        for statement in &call.statements {
            if !self.prepared.contains_key(statement.sql) {
                let prepared = self.client.prepare(statement.sql)?;
                self.prepared.insert(statement.sql, prepared);
            }
            let values: Vec<_> = statement
                .values
                .iter()
                .map(|value| value.as_sql())
                .collect();
            self.client.query(&self.prepared[statement.sql], &values)?;
        }
        if call.in_one_transaction {
            self.client.batch_execute("COMMIT")?;
        }
        Ok(())
    }
}
