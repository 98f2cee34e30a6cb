//! A disk that can be filled: a file system in memory that only one server and its keeper see, and that goes with them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::keeper::{as_server_user, is_root};

/// Where the server finds it: a folder that is on every machine, and hidden from that server alone.
pub const SMALL_DISK: &str = "/mnt";

/// Why this machine lets nobody mount one, if it does not.
pub fn can_have_small_disk() -> Result<(), String> {
    let tried = mounting(1).arg("true").output();
    let tried = tried.map_err(|error| error.to_string())?;
    if tried.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&tried.stderr);
    Err(format!(
        "no file system may be mounted: {}",
        complaint.trim()
    ))
}

/// A command that runs another as whoever may run a server, before whom such a file system is mounted.
pub(crate) fn mounting(megabytes: u32) -> Command {
    let mount = format!(
        "mount -t tmpfs -o size={megabytes}m,mode=1777 small_disk {SMALL_DISK} && exec \"$@\""
    );
    let mut command = Command::new("unshare");
    if !is_root() {
        // Only root mounts; so become what is root for a moment, in a namespace of our own.
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--", "sh", "-c", &mount, "sh"]);
    if is_root() {
        let as_server_user = as_server_user();
        command.arg(as_server_user.get_program());
        command.args(as_server_user.get_args());
    } else {
        let us = fs::metadata("/proc/self").expect("no /proc");
        command.args(["unshare", "--user"]);
        command.arg(format!("--map-user={}", us.uid()));
        command.arg(format!("--map-group={}", us.gid()));
        command.arg("--");
    }
    command
}
