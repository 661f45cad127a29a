//! The faults of a plan, as they begin and end.

use super::context::{MS, US};
use super::disk::{DiskTrouble, DiskWork, ENOSPC};
use super::event::{ConnId, End, Event};
use super::machines::Kind;
use super::plan::{CrashPoint, FaultKind};
use super::receiver::Trouble;
use super::world::World;
use crate::say;

/// Where a disk's troubles have the second one of a fault.
const FULL_COMMITS: usize = 1000;

impl World {
    pub fn begin_fault(&mut self, index: usize) {
        let fault = self.plan.faults[index].clone();
        say!(self.cx, "fault {index} begins: {:?}", fault.kind);
        let trouble = &mut self.receiver.trouble;
        match fault.kind {
            FaultKind::Outage { swallows } => {
                (trouble.refuses, trouble.swallows) = (true, swallows);
                self.reached.back_ns = None;
                self.receiver.down(&mut self.cx, &mut self.net);
            }
            FaultKind::Status(status) => trouble.status = Some(status),
            FaultKind::Refusals(status, percent) => trouble.refuses_records = Some((status, percent)),
            FaultKind::Poison(status) => trouble.poison = Some(status),
            FaultKind::Stuck(status) => trouble.stuck = Some(status),
            FaultKind::SlowAnswers(ns) => trouble.slow_ns = ns,
            FaultKind::LostAnswers(percent) => trouble.lost = percent,
            FaultKind::GarbledAnswers(percent) => trouble.garbled = percent,
            FaultKind::HangUp { machine, errno } => self.hang_up(machine, errno),
            FaultKind::Reset(percent) => self.reset_some(percent),
            FaultKind::Flood { machine } => self.machines[machine].flood = 300,
            FaultKind::Stall(percent) => self.stall_some(percent, fault.at_ns + fault.lasts_ns),
            FaultKind::SlowDisk(ns) => {
                for disk in &mut self.disks {
                    disk.delay_ns = ns;
                }
            }
            FaultKind::Kill(point) => {
                self.crash_at = Some(point);
                // Where that operation does not come, the kill does.
                let wait = if point == CrashPoint::Now { 0 } else { 300 * MS };
                self.cx.after(wait, Event::FaultOver { index });
            }
            FaultKind::PowerCut => {
                if self.shard.is_some() {
                    self.crash(true);
                }
            }
            FaultKind::Disk(ref trouble) => {
                for disk in &mut self.disks {
                    disk.troubles.insert(index, trouble.clone());
                }
            }
            FaultKind::DiskFull { commits } => {
                let full = |work| DiskTrouble { work, errno: ENOSPC, percent: 100, left: u32::MAX };
                for disk in &mut self.disks {
                    disk.troubles.insert(index, full(DiskWork::Prepare));
                    if commits {
                        disk.troubles.insert(index + FULL_COMMITS, full(DiskWork::Commit));
                    }
                }
            }
            FaultKind::HungDisk => {
                for disk in &mut self.disks {
                    disk.hung_until_ns = fault.at_ns + fault.lasts_ns;
                }
            }
            FaultKind::Tamper(ref tampering) => {
                if self.life == 0 {
                    // Not begun yet: there is nothing to change.
                } else {
                    if self.shard.is_some() && self.cx.chance(40) {
                        self.tamper_when_stopped = Some(tampering.clone());
                        self.stop();
                        return;
                    }
                    if self.shard.is_some() {
                        let power = self.cx.chance(30);
                        self.crash(power);
                    }
                    self.tamper(tampering);
                }
            }
            FaultKind::Reload => self.reload(),
            FaultKind::CleanRestart => {
                if !self.stopping {
                    self.stop();
                }
            }
        }
        self.cx.stats.count(fault.kind.name());
        if fault.lasts_ns > 0 {
            self.cx.after(fault.lasts_ns, Event::FaultOver { index });
        }
    }

    pub fn end_fault(&mut self, index: usize) {
        let fault = self.plan.faults[index].clone();
        say!(self.cx, "fault {index} is over: {:?}", fault.kind);
        let trouble: &mut Trouble = &mut self.receiver.trouble;
        match fault.kind {
            FaultKind::Outage { swallows } => {
                (trouble.refuses, trouble.swallows) = (false, false);
                if !swallows {
                    self.is_back();
                }
            }
            FaultKind::Status(_) => trouble.status = None,
            FaultKind::Refusals(..) => trouble.refuses_records = None,
            FaultKind::Poison(_) => trouble.poison = None,
            FaultKind::Stuck(_) => trouble.stuck = None,
            FaultKind::SlowAnswers(_) => trouble.slow_ns = 0,
            FaultKind::LostAnswers(_) => trouble.lost = 0,
            FaultKind::GarbledAnswers(_) => trouble.garbled = 0,
            FaultKind::HangUp { machine, .. } => {
                let delay = self.cx.rng.u64(US..MS);
                self.cx.after(delay, Event::PortAppeared { source: self.machines[machine].plan.source });
            }
            FaultKind::SlowDisk(_) => {
                for disk in &mut self.disks {
                    disk.delay_ns = self.plan.disk_delay_ns;
                }
            }
            FaultKind::Kill(point) => {
                if self.crash_at == Some(point) && self.shard.is_some() {
                    self.kill();
                } else if self.crash_at == Some(point) {
                    self.cx.after(50 * MS, Event::FaultOver { index }); // it is down already
                }
            }
            FaultKind::Disk(_) | FaultKind::DiskFull { .. } => {
                for disk in &mut self.disks {
                    disk.troubles.remove(&index);
                    disk.troubles.remove(&(index + FULL_COMMITS));
                }
            }
            FaultKind::Reset(_)
            | FaultKind::Flood { .. }
            | FaultKind::Stall(_)
            | FaultKind::HungDisk
            | FaultKind::Tamper(_)
            | FaultKind::PowerCut
            | FaultKind::CleanRestart
            | FaultKind::Reload => {}
        }
    }

    fn hang_up(&mut self, machine: usize, errno: Option<i32>) {
        let source = self.machines[machine].plan.source;
        self.doors.ports.entry(source).or_default().present = false;
        if let Some(conn) = self.machines[machine].conn
            && self.machines[machine].plan.kind == Kind::Serial
        {
            self.cx.stats.count("hang-up of an open port");
            self.net.hang_up(&mut self.cx, conn, errno);
            self.machines[machine].lose(&mut self.cx);
        }
    }

    /// Open sockets, oldest first.
    fn open_sockets(&self) -> Vec<ConnId> {
        let open = |&conn: &ConnId| {
            let state = &self.net.conns[conn];
            state.shard_open && state.peer_open && !state.reset && !self.port_of.contains_key(&conn)
        };
        (0..self.net.conns.len()).filter(open).collect()
    }

    fn reset_some(&mut self, percent: u32) {
        for conn in self.open_sockets() {
            if self.cx.chance(percent) {
                say!(self.cx, "conn {conn} is reset");
                self.net.tear(&mut self.cx, conn);
            }
        }
    }

    fn stall_some(&mut self, percent: u32, until_ns: u64) {
        let mut conns = self.open_sockets();
        conns.extend(self.port_of.keys());
        for conn in conns {
            for to in [End::Shard, End::Peer] {
                if self.cx.chance(percent) {
                    say!(self.cx, "conn {conn} stalls towards the {to:?}");
                    self.net.stall(conn, to, until_ns);
                }
            }
        }
    }
}
