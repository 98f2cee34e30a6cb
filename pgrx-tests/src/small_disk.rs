//! A disk that can be filled: a tmpfs in the mount namespace of one server, which ends with that server.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::server_process::{as_server_user, is_root};

/// Its mount point: a folder that every machine has. Only for that server the tmpfs hides what is in it.
pub const SMALL_DISK: &str = "/mnt";

/// An error says why this machine does not allow the mount.
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

/// A command that mounts the tmpfs in a new mount namespace and then runs another command there, as a user who may run a server.
pub(crate) fn mounting(megabytes: u32) -> Command {
    let mount = format!(
        "mount -t tmpfs -o size={megabytes}m,mode=1777 small_disk {SMALL_DISK} && exec \"$@\""
    );
    let mut command = Command::new("unshare");
    if !is_root() {
        // Only root may mount, so become root in a user namespace of our own.
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--", "sh", "-c", &mount, "sh"]);
    if is_root() {
        let as_server_user = as_server_user();
        command.arg(as_server_user.get_program());
        command.args(as_server_user.get_args());
    } else {
        let process = fs::metadata("/proc/self").expect("no /proc");
        command.args(["unshare", "--user"]);
        command.arg(format!("--map-user={}", process.uid()));
        command.arg(format!("--map-group={}", process.gid()));
        command.arg("--");
    }
    command
}
