//! A sandbox that forbids io_uring, as containers have it: a seccomp filter on the calling thread and all that it starts.
#![allow(unsafe_code)] // seccomp(2) has no safe wrapper

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};

/// From now on `io_uring_setup` fails with `errno` for this thread and its children.
pub fn io_uring_setup(errno: i32) {
    let statement = |code: u32, k: u32, jf: u8| sock_filter { code: code as u16, jt: 0, jf, k };
    let mut filter = [
        // The system call's number is the first word of seccomp_data.
        statement(BPF_LD | BPF_W | BPF_ABS, 0, 0),
        statement(BPF_JMP | BPF_JEQ | BPF_K, libc::SYS_io_uring_setup as u32, 1),
        statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, 0),
        statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // Without it only root may set a filter.
    nix::sys::prctl::set_no_new_privs().expect("prctl");
    // SAFETY: the kernel copies the program, which outlives the call, and its length is that of the array.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    assert_eq!(result, 0, "seccomp: {}", std::io::Error::last_os_error());
}
