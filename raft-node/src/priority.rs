//! Which threads go first: an overloaded machine must not look like a dead leader, so the threads that carry
//! heartbeats, and the log thread that stands in for one, ask for more than a fair share of the processor. Not
//! here: real-time scheduling, with which a bug could take the machine.

/// Raises the priority of the calling thread. Without the right to ask (CAP_SYS_NICE), it takes what it gets.
pub fn go_first() {
    let _ = rustix::process::setpriority_process(None, -10);
}
