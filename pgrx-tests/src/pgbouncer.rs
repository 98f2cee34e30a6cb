//! A temporary PgBouncer, which is stopped when the test that uses it ends.

use std::env;
use std::path::PathBuf;

use postgres::Client;

use crate::cluster::{PORT, connect};
use crate::database::Database;
use crate::server_process::ServerProcess;

/// A PgBouncer in transaction mode (`pool_mode = transaction`).
pub struct PgBouncer {
    _process: ServerProcess,
    folder: PathBuf,
    database: String,
    backend_role: String,
}

impl PgBouncer {
    /// Starts one in front of a database, with so many connections to the server. It supports the protocol's prepared
    /// statements. It hands out the connection that has been idle for longest, so that a client's next transaction is on
    /// another connection.
    pub fn start(database: &Database, server_connections: u32) -> Self {
        let program = env::var_os("MAGIC_LINK_PGBOUNCER").expect(
            "MAGIC_LINK_PGBOUNCER must name a pgbouncer of version 1.21 or later; `make test` sees to it",
        );
        let settings = format!(
            "[databases]\n\
             * = host={host} port={PORT}\n\
             [pgbouncer]\n\
             listen_port = {PORT}\n\
             pool_mode = transaction\n\
             max_prepared_statements = 100\n\
             default_pool_size = {server_connections}\n\
             server_round_robin = 1\n\
             auth_type = trust\n\
             query_wait_timeout = 30\n\
             admin_users = postgres",
            host = database.cluster().folder().display(),
        );
        let backend_role = database.backend_role();
        let roles = format!("\"postgres\" \"\"\n\"{backend_role}\" \"\"");
        let arguments = [program.as_ref(), settings.as_ref(), roles.as_ref()];
        let (process, folder) = ServerProcess::start("pooler", &arguments);
        Self {
            _process: process,
            folder,
            database: database.name().to_owned(),
            backend_role,
        }
    }

    /// A connection as the role that went through `grant_backend`.
    pub fn backend(&self) -> Client {
        connect(&self.folder, &self.database, &self.backend_role)
    }

    /// Its admin console, which takes simple queries only.
    pub fn console(&self) -> Client {
        connect(&self.folder, "pgbouncer", "postgres")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_stops_pgbouncer_and_deletes_its_folder() {
        let database = Database::new();
        let pooler = PgBouncer::start(&database, 1);
        let folder = pooler.folder.clone();
        let mut client = pooler.backend();
        client.execute("SELECT 1", &[]).expect("no answer");

        drop(pooler);

        assert!(!folder.exists());
        assert!(client.execute("SELECT 1", &[]).is_err());
    }
}
