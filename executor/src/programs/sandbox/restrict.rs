//! What the kernel refuses a thread and everything that it starts: system calls that no renderer needs, by a filter;
//! and, where there are no namespaces, files and connections, by Landlock.

use super::bubblewrap::nodes;
use super::places::{Places, SYSTEM};
use crate::programs::Confinement;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use tokio::process::{Child, Command};

/// System calls that programs are refused: those of administrators and debuggers, and those with a history of holes.
const REFUSED: [libc::c_long; 34] = [
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_setns,
    libc::SYS_unshare,
    // glibc uses `clone` instead, whose arguments can be looked at.
    libc::SYS_clone3,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_acct,
];
/// What is used of Landlock, where the kernel has it.
const LANDLOCK: ABI = ABI::V6;

/// The kinds of sockets that a program without a network may have: those for its own processes.
const FAMILIES: [libc::c_int; 2] = [libc::AF_UNSPEC, libc::AF_UNIX];
/// The bit by which 64-bit kernels tell calls with 32-bit pointers (x32), which the filter does not know by number.
const OTHER_CALLS: u32 = 0x4000_0000;

/// The filter of system calls. A refused call does not exist, as far as the program can see.
fn calls(network: bool) -> io::Result<BpfProgram> {
    let mut rules: std::collections::BTreeMap<_, _> = REFUSED.map(|call| (call, Vec::new())).into();
    let user = u64::try_from(libc::CLONE_NEWUSER).map_err(io::Error::other)?;
    let user =
        SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(user), user);
    let user = user.and_then(|user| SeccompRule::new(vec![user])).map_err(io::Error::other)?;
    rules.insert(libc::SYS_clone, vec![user]);
    if !network {
        let other = |family: &libc::c_int| {
            let family = u64::try_from(*family).map_err(io::Error::other)?;
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
                .map_err(io::Error::other)
        };
        let other = FAMILIES.iter().map(other).collect::<Result<_, _>>()?;
        rules.insert(libc::SYS_socket, vec![SeccompRule::new(other).map_err(io::Error::other)?]);
    }
    let here = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let filter: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, missing.clone(), here)
        .and_then(TryInto::try_into)
        .map_err(io::Error::other)?;
    // Load the call's number; go on if it is an ordinary one.
    let step = |code: u32, jf: u8, k: u32| {
        Ok::<_, io::Error>(sock_filter {
            code: code.try_into().map_err(io::Error::other)?,
            jt: 0,
            jf,
            k,
        })
    };
    let mut all = vec![
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)?,
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, OTHER_CALLS)?,
        step(libc::BPF_RET | libc::BPF_K, 0, missing.into())?,
    ];
    all.extend(filter);
    Ok(all)
}

/// The filter as a file in memory, to be opened by its path.
#[derive(Debug)]
pub struct CallsFile(File);

impl CallsFile {
    pub(super) fn new() -> io::Result<Self> {
        let mut bytes = Vec::new();
        // Namespaces take care of the network.
        for step in calls(true)? {
            bytes.extend(step.code.to_ne_bytes());
            bytes.extend([step.jt, step.jf]);
            bytes.extend(step.k.to_ne_bytes());
        }
        let mut file = File::from(memfd_create("calls", MemfdFlags::CLOEXEC)?);
        file.write_all(&bytes)?;
        Ok(Self(file))
    }

    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Whether the kernel has Landlock.
pub(super) fn is_usable() -> Result<(), String> {
    let asked = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create);
    asked.map(drop).map_err(|error| error.to_string())
}

/// Rules that a thread imposes on itself and on the program that it starts.
#[derive(Debug)]
pub(super) struct Rules {
    files: RulesetCreated,
    calls: BpfProgram,
}

impl Rules {
    pub(super) fn new(places: &Places, needs: &Confinement) -> io::Result<Self> {
        let network = AccessNet::BindTcp | AccessNet::ConnectTcp;
        let (all, read) = (AccessFs::from_all(LANDLOCK), AccessFs::from_read(LANDLOCK));
        let rules = || {
            let mut rules = Ruleset::default().handle_access(all)?;
            if !needs.network {
                rules = rules.handle_access(network)?;
            }
            let mut rules = rules.scope(Scope::AbstractUnixSocket | Scope::Signal)?.create()?;
            let system = SYSTEM.iter().map(|place| (Path::new(place), false));
            let kernel = [("/proc", false), ("/dev/null", true), ("/dev/zero", true)];
            let random = [("/dev/random", false), ("/dev/urandom", false), ("/dev/shm", true)];
            let kernel = kernel.into_iter().chain(random);
            let kernel = kernel.map(|(place, writable)| (Path::new(place), writable));
            let nodes = if needs.gpu.is_some() { nodes() } else { Vec::new() };
            let nodes = nodes.iter().map(|node| (node.as_path(), true));
            let ours = places.0.iter().map(|(place, writable)| (place.as_path(), *writable));
            for (place, writable) in system.chain(kernel).chain(nodes).chain(ours) {
                let Ok(open) = PathFd::new(place) else { continue };
                let mut may = if writable { all } else { read };
                if !place.is_dir() {
                    may &= AccessFs::from_file(LANDLOCK);
                }
                rules = rules.add_rule(PathBeneath::new(open, may))?;
            }
            Ok(rules)
        };
        let files = rules().map_err(|error: landlock::RulesetError| io::Error::other(error))?;
        Ok(Self { files, calls: calls(needs.network)? })
    }

    /// Starts a program under these rules, from a thread of its own that ends afterwards.
    pub(super) fn spawn(self, command: &mut Command) -> io::Result<Child> {
        let runtime = tokio::runtime::Handle::current();
        std::thread::scope(|scope| {
            let start = scope.spawn(move || {
                let _inside = runtime.enter();
                for right in CapabilitySet::all().iter() {
                    // Root would keep its rights, such as to read the memory of others. Whoever may not drop them has
                    // none.
                    let _ = remove_capability_from_bounding_set(right);
                }
                self.files.restrict_self().map_err(io::Error::other)?;
                seccompiler::apply_filter(&self.calls).map_err(io::Error::other)?;
                command.spawn()
            });
            start.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
        })
    }
}
