//! A session as an application's driver has it: values bound, statements prepared once or not at all.

use std::collections::HashMap;

use magic_link_harness::postgres::{self, Client};

use crate::contestants::{Call, Contestant, Statement};

pub struct Session {
    pub client: Client,
    prepares: bool,
    prepared: HashMap<&'static str, postgres::Statement>,
}

impl Session {
    pub fn new(mut client: Client, contestant: Contestant) -> Self {
        if let Some(setting) = contestant.session() {
            crate::server::run(&mut client, setting);
        }
        Self {
            client,
            prepares: contestant.prepares(),
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
            self.send(statement)?;
        }
        if call.in_one_transaction {
            self.client.batch_execute("COMMIT")?;
        }
        Ok(())
    }

    /// In one round trip, if it was prepared, or is not.
    fn send(&mut self, statement: &Statement) -> Result<(), postgres::Error> {
        if !self.prepares {
            let values = statement.values.iter();
            let values: Vec<_> = values
                .map(|value| (value.as_sql(), value.sql_type()))
                .collect();
            self.client.query_typed(statement.sql, &values)?;
            return Ok(());
        }
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
        Ok(())
    }
}
