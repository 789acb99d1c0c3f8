//! Which file system the workspaces are on: a lock of a shared one may be dropped without
//! its holder's knowledge.

use std::os::fd::AsFd;

/// Of shared file systems, as `statfs` reports them, and their names. FUSE stands for any
/// program, so most shared ones without a client in the kernel are among it.
const SHARED: &[(u64, &str)] = &[
    (0x6969, "nfs"),
    (0x6573_5546, "fuse"),
    (0x00c3_6400, "ceph"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x517b, "smb"),
    (0x0bd0_0bd0, "lustre"),
    (0x4750_4653, "gpfs"),
    (0x1983_0326, "beegfs"),
    (0x0102_1997, "9p"),
    (0x5346_414f, "afs"),
    (0x0116_1970, "gfs2"),
    (0x7461_636f, "ocfs2"),
];

/// The name of the shared file system that holds this; `None` if it is on a local one, or on
/// one that is not known to be shared.
pub(super) fn shared(of: impl AsFd) -> Option<&'static str> {
    let found = rustix::fs::fstatfs(of).ok()?;
    named(found.f_type.cast_unsigned())
}

fn named(magic: u64) -> Option<&'static str> {
    // Some systems have the number with a sign.
    let magic = magic & 0xffff_ffff;
    let known = SHARED.iter().find(|(number, _)| *number == magic);
    known.map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_file_systems_are_known_by_their_numbers() {
        assert_eq!(named(0x6969), Some("nfs"));
        assert_eq!(named(0xffff_ffff_ff53_4d42), Some("cifs"));
        for local in [
            0xef53_u64,
            0x5846_5342,
            0x9123_683e,
            0x0102_1994,
            0x794c_7630,
        ] {
            assert_eq!(named(local), None, "{local:x}");
        }
        assert_eq!(shared(std::fs::File::open("/proc").unwrap()), None);
    }
}
