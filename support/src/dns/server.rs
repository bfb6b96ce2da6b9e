//! What becomes of a query: what is scripted for its name, as a message.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, SOA},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use super::reply::{Behaviour, Quirk, Reply, fqdn};

/// A query that arrived.
#[derive(Clone, Debug)]
pub struct Query {
    /// One that is sent again keeps it.
    pub id: u16,
    /// In lower case, without the final dot.
    pub name: String,
    pub record_type: RecordType,
    pub over_tcp: bool,
    /// Whether it has an OPT record.
    pub has_edns: bool,
    pub at: Instant,
}

pub(super) type Key = (Name, RecordType);

#[derive(Default)]
pub(super) struct Script {
    pub(super) ttl: u32,
    pub(super) always: Option<Reply>,
    pub(super) aliases: HashMap<Name, Name>,
    pub(super) replies: HashMap<Key, Reply>,
    /// The last reply of several and the id of the query it was for.
    pub(super) served: HashMap<Key, (u16, Reply)>,
    pub(super) queries: Vec<Query>,
    pub(super) delay: Duration,
    pub(super) quirks: Vec<Quirk>,
    pub(super) lost: usize,
}

impl Script {
    /// The CNAME records to begin with, their last target, and the reply that this one has.
    fn reply(&mut self, name: &Name, record_type: RecordType, id: u16) -> (Vec<Record>, Name, Reply) {
        let mut chain = Vec::new();
        let mut owner = name.clone();
        if let Some(reply) = &self.always {
            return (chain, owner, reply.clone());
        }
        while let Some(target) = self.aliases.get(&owner)
            && chain.len() <= self.aliases.len()
        {
            let data = RData::CNAME(CNAME(target.clone()));
            chain.push(Record::from_rdata(owner, self.ttl, data));
            owner = target.clone();
        }
        let key = (owner.clone(), record_type);
        let exists = self.replies.keys().any(|(name, _)| *name == owner);
        let served = self.served.get(&key).filter(|(last, _)| *last == id).map(|(_, reply)| reply.clone());
        let reply = match (served, self.replies.get_mut(&key)) {
            (Some(reply), _) => reply,
            (None, Some(scripted)) => scripted.next(),
            (None, None) if exists => Reply::NoData { negative_ttl: Some(self.ttl) },
            (None, None) => Reply::NxDomain { negative_ttl: Some(self.ttl) },
        };
        self.served.insert(key, (id, reply.clone()));
        (chain, owner, reply)
    }
}

#[derive(Clone)]
pub(super) struct Server(pub(super) Arc<Mutex<Script>>);

impl Server {
    pub(super) async fn serve_stream(self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let mut query = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut query).await?;
            let Some(replies) = self.replies(&query, true).await else { continue };
            if replies.is_empty() {
                return Ok(());
            }
            for reply in replies {
                let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
                // In one piece: two would wait for each other's acknowledgement.
                stream.write_all(&[&length[..], &reply].concat()).await?;
            }
        }
    }

    /// `None` is silence.
    pub(super) async fn replies(&self, bytes: &[u8], over_tcp: bool) -> Option<Vec<Vec<u8>>> {
        let query = Message::from_vec(bytes).ok()?;
        let asked = query.queries.first()?.clone();
        let (id, has_edns) = (query.metadata.id, query.edns.is_some());
        let key = (asked.name().to_lowercase(), asked.query_type());
        let mut reply = Message::response(id, query.metadata.op_code);
        reply.metadata.recursion_desired = query.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        let (chain, owner, scripted, ttl, delay, is_cut) = {
            let mut script = self.0.lock().unwrap();
            let name = key.0.to_ascii().trim_end_matches('.').to_owned();
            script.queries.push(Query { id, name, record_type: key.1, over_tcp, has_edns, at: Instant::now() });
            if !over_tcp && script.lost > 0 {
                script.lost -= 1;
                return None;
            }
            let has = |quirk| script.quirks.contains(&quirk);
            let is_unheard = if over_tcp { has(Quirk::UdpOnly) } else { has(Quirk::TcpOnly) };
            if has(Quirk::Silent) || is_unheard || (has_edns && has(Quirk::EdnsDropped)) {
                return None;
            }
            if has_edns && has(Quirk::EdnsFormErr) {
                reply.metadata.response_code = ResponseCode::FormErr;
                return Some(vec![reply.to_vec().unwrap()]);
            }
            reply.add_query(asked);
            if has_edns && has(Quirk::EdnsNotImp) {
                reply.metadata.response_code = ResponseCode::NotImp;
                return Some(vec![reply.to_vec().unwrap()]);
            }
            let is_cut = has(Quirk::Cut) && !over_tcp;
            let (chain, owner, scripted) = script.reply(&key.0, key.1, id);
            (chain, owner, scripted, script.ttl, script.delay, is_cut)
        };
        reply.add_answers(chain);
        sleep(delay).await;
        if let Some(behaviour) = fill(&mut reply, scripted, &owner, ttl, over_tcp).await? {
            return Some(behaviour(reply.to_vec().unwrap()));
        }
        if over_tcp {
            return Some(vec![reply.to_vec().unwrap()]);
        }
        reply.edns.clone_from(&query.edns);
        let most = query.edns.as_ref().map_or(512, |edns| edns.max_payload().into());
        let mut message = reply.to_vec().unwrap();
        while message.len() > most {
            reply.metadata.truncation = true;
            reply.answers.truncate(reply.answers.len() * most / message.len());
            message = reply.to_vec().unwrap();
        }
        if is_cut {
            message.truncate(message.len() * 2 / 3);
        }
        Some(vec![message])
    }
}

/// Writes what is scripted into the reply, or tells what makes the messages of it. `None` is silence.
async fn fill(
    reply: &mut Message,
    mut scripted: Reply,
    owner: &Name,
    ttl: u32,
    over_tcp: bool,
) -> Option<Option<Behaviour>> {
    let address = |ip: IpAddr| Record::from_rdata(owner.clone(), ttl, RData::from(ip));
    loop {
        match scripted {
            Reply::Delayed(delay, next) => {
                sleep(delay).await;
                scripted = *next;
                continue;
            }
            Reply::Truncated(whole) => {
                scripted = *whole;
                if !over_tcp {
                    reply.metadata.truncation = true;
                    match &mut scripted {
                        Reply::Addresses(all) => all.truncate(all.len() / 2),
                        Reply::Records(all) => all.truncate(all.len() / 2),
                        _ => return Some(None),
                    }
                }
                continue;
            }
            Reply::Raw(behaviour) => {
                let Reply::Addresses(two) = Reply::many(2) else { return None };
                reply.add_answers(two.into_iter().map(address));
                return Some(Some(behaviour));
            }
            Reply::Silent | Reply::InTurn(_) | Reply::Sequence(_) => return None,
            Reply::Addresses(addresses) => _ = reply.add_answers(addresses.into_iter().map(address)),
            Reply::Records(records) => _ = reply.add_answers(records),
            Reply::Edited(edit) => {
                reply.add_answer(address(Ipv4Addr::new(10, 0, 0, 1).into()));
                edit(reply);
            }
            Reply::NoData { negative_ttl } => reply.authorities.extend(negative_ttl.map(soa_record)),
            Reply::NxDomain { negative_ttl } => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                reply.authorities.extend(negative_ttl.map(soa_record));
            }
            Reply::Refused => reply.metadata.response_code = ResponseCode::Refused,
            Reply::ServFail => reply.metadata.response_code = ResponseCode::ServFail,
        }
        return Some(None);
    }
}

fn soa_record(negative_ttl: u32) -> Record {
    let (server, mailbox) = (fqdn("ns.test"), fqdn("hostmaster.test"));
    let data = SOA::new(server, mailbox, 1, 3600, 600, 86_400, negative_ttl);
    Record::from_rdata(fqdn("test"), negative_ttl, RData::SOA(data))
}
