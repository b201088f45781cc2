//! The filters are executed here, on calls that are made up: so each number is tried, and those of kernels that there are not.

use super::{Filter, OWN_PROCESS, Opening, Stage, X32, lists};

const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
/// 32 bits of the same family.
const OTHER_ARCHITECTURE: u32 = 0x4000_0003;

/// What a filter sees: `struct seccomp_data`, as words.
struct Call {
    number: u32,
    architecture: u32,
    arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        let of_argument = |at: u32| {
            let argument = self.arguments[usize::try_from(at / 8).unwrap()];
            let half = if at % 8 == 0 { argument } else { argument >> 32 };
            u32::try_from(half & 0xffff_ffff).unwrap()
        };
        match offset {
            0 => self.number,
            4 => self.architecture,
            8 | 12 => 0,
            _ => of_argument(offset - 16),
        }
    }
}

/// Executes a filter, as the kernel would.
fn execute(filter: &Filter, call: &Call) -> u32 {
    let (mut accumulator, mut at) = (0, 0);
    loop {
        let instruction = &filter.0[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { instruction.jt } else { instruction.jf });
        match instruction.code {
            0x20 => accumulator = call.word(instruction.k),
            0x54 => accumulator &= instruction.k,
            0x05 => at += usize::try_from(instruction.k).unwrap(),
            0x15 => at += jump(accumulator == instruction.k),
            0x25 => at += jump(accumulator > instruction.k),
            0x35 => at += jump(accumulator >= instruction.k),
            0x06 => return instruction.k,
            code => panic!("an instruction of no filter: {code:#x}"),
        }
    }
}

const OURS: u32 = 4711;
/// libc has no names for these.
const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;

fn filter(stage: Stage, opening: Opening) -> Filter {
    let mut filter = Filter::compile(stage, opening).unwrap();
    filter.is_for(OURS);
    filter
}

/// As stage two of `compute`.
fn strict() -> Filter {
    filter(Stage::Two, Opening::ForReading)
}

fn decide(filter: &Filter, number: i64, arguments: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let number = u32::try_from(number).unwrap();
    execute(filter, &Call { number, architecture: ARCHITECTURE, arguments: all })
}

fn flags(value: libc::c_int) -> u64 {
    u64::try_from(value).unwrap()
}

#[test]
fn what_can_be_called_with_any_arguments_is_what_the_lists_say() {
    // Each of these is refused with other arguments.
    let arguments = [u64::MAX; 6];
    let allowed = |filter: &Filter| -> Vec<i64> {
        (0..1000).filter(|number| decide(filter, *number, &arguments) == ALLOW).collect()
    };
    let (first, second) = (filter(Stage::One, Opening::ForReading), strict());
    let [first, second] = [allowed(&first), allowed(&second)];
    assert!(second.len() > 70 && second.len() < 110, "{}", second.len());
    let more: Vec<_> = first.iter().filter(|number| !second.contains(number)).copied().collect();
    let mut starting = vec![libc::SYS_execve, libc::SYS_landlock_restrict_self];
    #[cfg(target_arch = "x86_64")]
    starting.insert(0, libc::SYS_arch_prctl);
    starting.sort_unstable();
    assert_eq!(more, starting, "what stage two takes away");
    assert!(second.iter().all(|number| first.contains(number)), "stage two adds nothing");
}

/// By name, so that a mistake in the lists is seen.
const HOSTILE: &[i64] = &[
    libc::SYS_execveat,
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_memfd_create,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_personality,
    libc::SYS_setrlimit,
    libc::SYS_setpriority,
    libc::SYS_sched_setscheduler,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_truncate,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mknodat,
    libc::SYS_open_by_handle_at,
    libc::SYS_shmget,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    libc::SYS_setuid,
    libc::SYS_capset,
    libc::SYS_setsid,
    libc::SYS_setpgid,
    libc::SYS_mlock,
    libc::SYS_mincore,
    libc::SYS_splice,
    libc::SYS_vmsplice,
    libc::SYS_ioprio_set,
    libc::SYS_kcmp,
    libc::SYS_get_robust_list,
    libc::SYS_init_module,
    libc::SYS_reboot,
    libc::SYS_process_madvise,
    libc::SYS_setsockopt,
    libc::SYS_chdir,
    libc::SYS_landlock_create_ruleset,
];

#[test]
fn what_a_hostile_worker_would_call_is_refused_in_both_stages() {
    #[cfg(target_arch = "x86_64")]
    let legacy = [libc::SYS_fork, libc::SYS_vfork, libc::SYS_chmod, libc::SYS_creat];
    #[cfg(not(target_arch = "x86_64"))]
    let legacy = [];
    for opening in [Opening::None, Opening::ForReading, Opening::ForWriting] {
        for stage in [Stage::One, Stage::Two] {
            let filter = filter(stage, opening);
            for number in HOSTILE.iter().chain(&legacy) {
                assert_eq!(decide(&filter, *number, &[]), EPERM, "{number}, {stage:?}");
            }
        }
    }
    let second = strict();
    for number in [libc::SYS_execve, libc::SYS_seccomp, libc::SYS_unshare] {
        assert_eq!(decide(&second, number, &[1]), EPERM, "{number}");
    }
}

#[test]
fn calls_of_other_architectures_end_the_process_and_x32_is_refused() {
    for filter in [filter(Stage::One, Opening::ForReading), strict()] {
        for number in 0..lists::UNKNOWN {
            let call = Call { number, architecture: OTHER_ARCHITECTURE, arguments: [0; 6] };
            let decision = execute(&filter, &call);
            assert!(decision == KILL || decision == ENOSYS, "{number}: {decision:#x}");
            let call = Call { number: number | X32, architecture: ARCHITECTURE, arguments: [0; 6] };
            assert_eq!(execute(&filter, &call), EPERM, "{number}");
        }
    }
}

#[test]
fn what_libraries_can_do_without_looks_as_on_an_older_kernel() {
    let filter = strict();
    for number in lists::ABSENT {
        assert_eq!(decide(&filter, i64::from(*number), &[]), ENOSYS, "{number}");
    }
    for number in [lists::UNKNOWN, 470, 1000, X32 - 1] {
        assert_eq!(decide(&filter, i64::from(number), &[]), ENOSYS, "{number}");
    }
    assert_eq!(decide(&filter, i64::from(lists::UNKNOWN - 2), &[]), EPERM);
}

#[test]
fn threads_can_be_made_and_processes_and_namespaces_cannot() {
    let (filter, clone) = (strict(), libc::SYS_clone);
    // As libraries do it.
    let thread = 0x003d_0f00;
    assert_eq!(decide(&filter, clone, &[thread]), ALLOW);
    // As fork, vfork and posix_spawn.
    for process in [0x0120_0011, 17, 0x4111, 0] {
        assert_eq!(decide(&filter, clone, &[process]), EPERM, "{process:#x}");
    }
    for namespace in
        [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000]
    {
        assert_eq!(decide(&filter, clone, &[thread | namespace]), EPERM, "{namespace:#x}");
    }
    for missing in [0x100, 0x800, 0x1_0000] {
        assert_eq!(decide(&filter, clone, &[thread & !missing]), EPERM, "{missing:#x}");
    }
    // Only the question whether there are threads.
    let first = super::tests::filter(Stage::One, Opening::ForReading);
    assert_eq!(decide(&first, libc::SYS_unshare, &[0x1_0000]), ALLOW);
    assert_eq!(decide(&first, libc::SYS_unshare, &[0x1000_0000]), EPERM);
}

#[test]
fn a_process_signals_itself_only() {
    let (filter, own) = (strict(), u64::from(OURS));
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        assert_eq!(decide(&filter, call, &[own, own, 6]), ALLOW);
        // Its host, its group, everybody, and what stands for it.
        for other in [1, own - 1, 0, u64::MAX, u64::from(u32::MAX), u64::from(OWN_PROCESS)] {
            assert_eq!(decide(&filter, call, &[other, other, 9]), EPERM, "{other}");
        }
    }
    assert!(filter.0.iter().all(|instruction| instruction.k != OWN_PROCESS));
    // Nor has the kernel do it.
    for command in [
        libc::F_SETOWN,
        F_SETOWN_EX,
        F_SETSIG,
        libc::F_NOTIFY,
        libc::F_SETLEASE,
        libc::F_SETPIPE_SZ,
    ] {
        assert_eq!(decide(&filter, libc::SYS_fcntl, &[3, flags(command), 9]), EPERM, "{command}");
    }
    let set = |to| decide(&filter, libc::SYS_fcntl, &[3, flags(libc::F_SETFL), flags(to)]);
    assert_eq!((set(libc::O_NONBLOCK), set(libc::O_ASYNC)), (ALLOW, EPERM));
    for command in [libc::F_DUPFD_CLOEXEC, libc::F_GETFL, libc::F_SETFD] {
        assert_eq!(decide(&filter, libc::SYS_fcntl, &[3, flags(command), 9]), ALLOW, "{command}");
    }
    // FIOSETOWN, FIOASYNC, TIOCSTI, TIOCLINUX.
    for control in [0x8901, 0x5452, 0x5412, 0x541c] {
        assert_eq!(decide(&filter, libc::SYS_ioctl, &[0, control]), EPERM, "{control:#x}");
    }
    assert_eq!(decide(&filter, libc::SYS_ioctl, &[0, 0x5421]), ALLOW);
}

#[test]
fn files_are_opened_as_far_as_the_sandbox_says() {
    let open = |filter: &Filter, how: libc::c_int| {
        let decision = decide(filter, libc::SYS_openat, &[0, 0, flags(how)]);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(decide(filter, libc::SYS_open, &[0, flags(how)]), decision, "{how:#o}");
        decision
    };
    let none = filter(Stage::Two, Opening::None);
    assert_eq!(open(&none, libc::O_RDONLY), EPERM);
    let reading = strict();
    for harmless in [0, libc::O_CLOEXEC, libc::O_DIRECTORY, libc::O_NOFOLLOW, libc::O_PATH] {
        assert_eq!(open(&reading, harmless), ALLOW, "{harmless:#o}");
    }
    let changes = [libc::O_WRONLY, libc::O_RDWR, 3, libc::O_CREAT, libc::O_TRUNC, libc::O_TMPFILE];
    for change in changes {
        assert_eq!(open(&reading, change | libc::O_CLOEXEC), EPERM, "{change:#o}");
    }
    let writing = filter(Stage::Two, Opening::ForWriting);
    let as_usual = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
    for usual in [0, as_usual, libc::O_RDWR, libc::O_RDWR | libc::O_TMPFILE] {
        assert_eq!(open(&writing, usual), ALLOW, "{usual:#o}");
    }
    // Landlock checks that from its third version on only.
    assert_eq!(open(&writing, libc::O_TRUNC), EPERM);
    let make = |filter: &Filter| decide(filter, libc::SYS_mkdirat, &[]);
    assert_eq!((make(&reading), make(&writing)), (EPERM, ALLOW));
}

#[test]
fn memory_that_no_limit_counts_cannot_be_had() {
    let filter = strict();
    let map = |how: libc::c_int| decide(&filter, libc::SYS_mmap, &[0, 4096, 3, flags(how)]);
    let anonymous = libc::MAP_ANONYMOUS;
    for usual in [
        libc::MAP_PRIVATE | anonymous,
        libc::MAP_PRIVATE | anonymous | libc::MAP_STACK | libc::MAP_NORESERVE,
        libc::MAP_PRIVATE | libc::MAP_FIXED,
        libc::MAP_SHARED, // The region.
    ] {
        assert_eq!(map(usual), ALLOW, "{usual:#x}");
    }
    for uncounted in [
        libc::MAP_SHARED | anonymous,
        libc::MAP_SHARED_VALIDATE | anonymous,
        libc::MAP_PRIVATE | anonymous | libc::MAP_GROWSDOWN,
        libc::MAP_PRIVATE | anonymous | libc::MAP_HUGETLB,
        0,
    ] {
        assert_eq!(map(uncounted), EPERM, "{uncounted:#x}");
    }
    let limit = |process, new| decide(&filter, libc::SYS_prlimit64, &[process, 9, new, 1]);
    assert_eq!((limit(0, 0), limit(0, 1), limit(1, 0)), (ALLOW, EPERM, EPERM));
    // A pointer whose low half is zero.
    assert_eq!(limit(0, 1 << 32), EPERM);
}

#[test]
fn sockets_are_pairs_and_what_is_given() {
    let filter = strict();
    let pair = |domain, kind: libc::c_int| {
        decide(&filter, libc::SYS_socketpair, &[domain, flags(kind), 0])
    };
    let modes = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    assert_eq!(pair(1, libc::SOCK_STREAM | modes), ALLOW);
    assert_eq!(pair(1, libc::SOCK_DGRAM | modes), EPERM);
    assert_eq!(pair(1, libc::SOCK_SEQPACKET), EPERM);
    assert_eq!(pair(2, libc::SOCK_STREAM), EPERM);
    let send = |address| decide(&filter, libc::SYS_sendto, &[3, 1, 1, 0, address, 16]);
    assert_eq!((send(0), send(0x7fff_0000_0000)), (ALLOW, EPERM));
    let name = |option| decide(&filter, libc::SYS_prctl, &[option]);
    assert_eq!((name(15), name(16)), (ALLOW, ALLOW));
    // Dumpable, no_new_privs, seccomp, ambient capabilities, the memory map, a tracer.
    for option in [4, 38, 22, 47, 35, 0x5961_6d61] {
        assert_eq!(name(option), EPERM, "{option}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn large_registers_can_be_had_and_no_segments() {
    let ask = |stage, request| {
        decide(&filter(stage, Opening::ForReading), libc::SYS_arch_prctl, &[request, 18])
    };
    assert_eq!((ask(Stage::Two, 0x1023), ask(Stage::Two, 0x1002)), (ALLOW, EPERM));
    assert_eq!((ask(Stage::One, 0x1023), ask(Stage::One, 0x1002)), (ALLOW, ALLOW));
}

#[test]
fn a_filter_is_short_enough() {
    for opening in [Opening::None, Opening::ForReading, Opening::ForWriting] {
        let filter = filter(Stage::One, opening);
        assert!(filter.0.len() < 1000, "{}", filter.0.len());
    }
}
