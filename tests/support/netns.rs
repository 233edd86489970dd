//! Network namespaces: nodes that reach each other, and their stores, only through proxies that can be cut.

#![allow(dead_code)]

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace of its own, with nothing in it but a loopback interface. Ends with this.
pub struct Netns {
    holder: Child,
}

impl Netns {
    pub fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"]);
        let mut holder = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("unshare, of util-linux");
        let mut said = String::new();
        let told = holder.stdout.take().expect("is piped");
        BufReader::new(told).read_line(&mut said).expect("it says one line");
        assert_eq!(said, "up\n", "network namespaces need root (CAP_SYS_ADMIN), and ip of iproute2");
        Self { holder }
    }

    /// A handle that outlives nothing: for threads that are to be inside.
    pub fn open(&self) -> File {
        File::open(format!("/proc/{}/ns/net", self.holder.id())).expect("it lives")
    }

    /// What a command line begins with whose process is to be inside.
    pub fn prefix(&self) -> Vec<String> {
        ["nsenter", "--net", "-t"].map(String::from).into_iter().chain([self.holder.id().to_string()]).collect()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = (self.holder.kill(), self.holder.wait());
    }
}

/// Puts this thread inside.
pub fn enter(space: &File) {
    move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).expect("root (CAP_SYS_ADMIN)");
}
