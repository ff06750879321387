//! cargo fuzz run -s none policy
#![no_main]

struct Everybody;

impl jarvis_policy::Accounts for Everybody {
    fn uid(&self, user: &str) -> Option<u32> {
        u32::try_from(user.len()).ok()
    }

    fn gid(&self, group: &str) -> Option<u32> {
        u32::try_from(group.len()).ok()
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = str::from_utf8(bytes)
        && let Ok(policy) = jarvis_policy::Policy::parse(text, &Everybody)
    {
        let caller = jarvis_policy::Caller {
            uid: 4,
            gid: 4,
            groups: &[0, 5],
            containerized: false,
            namespace: jarvis_policy::Namespace::Host,
        };
        let name = "a/b";
        let allowed = policy.decide(&caller, jarvis_policy::Verb::Read, name).allowed();
        assert!(!allowed || policy.may_beneath(&caller, jarvis_policy::Verb::Read, "a"));
    }
});
