//! Behaviours for [`Reply::Raw`](super::Reply::Raw): what they make of a well-formed reply with two addresses.

/// Silence; over TCP the connection is closed at once.
pub fn no_reply(_: Vec<u8>) -> Vec<Vec<u8>> {
    Vec::new()
}

pub fn wrong_id(mut reply: Vec<u8>) -> Vec<Vec<u8>> {
    reply[..2].iter_mut().for_each(|byte| *byte = !*byte);
    vec![reply]
}

/// A forged reply, then the true one.
pub fn wrong_id_first(reply: Vec<u8>) -> Vec<Vec<u8>> {
    [wrong_id(reply.clone()), vec![reply]].concat()
}

pub fn garbage(_: Vec<u8>) -> Vec<Vec<u8>> {
    vec![vec![0xa5; 64]]
}

/// Garbage after the right id.
pub fn garbage_with_id(reply: Vec<u8>) -> Vec<Vec<u8>> {
    vec![[&reply[..2], &[0xa5; 62]].concat()]
}

pub fn empty(_: Vec<u8>) -> Vec<Vec<u8>> {
    vec![Vec::new()]
}

/// The header promises a question and answers, and that is all.
pub fn header_only(reply: Vec<u8>) -> Vec<Vec<u8>> {
    vec![reply[..12].to_vec()]
}

/// The last record ends in its middle.
pub fn cut_short(mut reply: Vec<u8>) -> Vec<Vec<u8>> {
    reply.truncate(reply.len() - 6);
    vec![reply]
}

/// The owner of the last record is a compression pointer to itself.
pub fn pointer_loop(mut reply: Vec<u8>) -> Vec<Vec<u8>> {
    let owner = reply.len() - RECORD_LENGTH;
    reply[owner..owner + 2].copy_from_slice(&(0xc000 | u16::try_from(owner).unwrap()).to_be_bytes());
    vec![reply]
}

/// The last A record is of 3 bytes.
pub fn wrong_rdlength(mut reply: Vec<u8>) -> Vec<Vec<u8>> {
    let length = reply.len() - 5;
    reply[length] = 3;
    reply.pop();
    vec![reply]
}

/// A pointer to the owner, type, class, TTL, length, address.
const RECORD_LENGTH: usize = 16;

pub fn not_implemented(mut reply: Vec<u8>) -> Vec<Vec<u8>> {
    reply[3] = reply[3] & 0xf0 | 4;
    vec![reply]
}
