//! Files that hosts add: taken in piece by piece, and there when they are whole.
//!
//! Not here: what else hosts may ask (the parent).

use std::{io, time::Duration};

use isyone_backup::{
    Store as _,
    store::{Begun, File, StoreError},
};
use isyone_proto::{
    convert::{MAX_CHUNK_BYTES, PutHead, StoreFileKind},
    error::FieldError,
    ids::HostName,
    pb::agent::v1::{PutFileRequest, put_file_request},
};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::{Call, IDLE, PIECE, Repositories, full, known, meaning, patience, refused, slow};
use crate::wire::status;

/// Of a refused call, so much and for so long is still read.
const DRAIN_MESSAGES: usize = 4;
pub(super) const DRAIN_TIME: Duration = Duration::from_secs(1);

impl Repositories {
    /// True when the file was there already.
    pub(super) async fn put_file(
        &self,
        host: HostName,
        pieces: &mut Streaming<PutFileRequest>,
    ) -> Result<bool, Status> {
        let head = match next(pieces).await? {
            Some(put_file_request::Message::Put(head)) => PutHead::try_from(head)?,
            _ => return Err(FieldError::new("put", "must be the first message").into()),
        };
        let call = self.begin(host, head.of.clone(), true).await?;
        let stop = call.shared.stop.clone();
        let taken = timeout(patience(head.size), take(&call, &head, pieces));
        tokio::select! {
            taken = taken => taken.map_err(|_| slow())?,
            () = stop.cancelled() => Err(status::stopping()),
        }
    }
}

/// Reads what still comes of a refused call, as far as that is little.
pub(super) async fn drain(pieces: &mut Streaming<PutFileRequest>) {
    for _ in 0..DRAIN_MESSAGES {
        if !matches!(pieces.message().await, Ok(Some(_))) {
            return;
        }
    }
}

async fn next(
    pieces: &mut Streaming<PutFileRequest>,
) -> Result<Option<put_file_request::Message>, Status> {
    let message = timeout(IDLE, pieces.message())
        .await
        .map_err(|_| slow())??;
    match message {
        None => Ok(None),
        Some(PutFileRequest {
            message: Some(message),
        }) => Ok(Some(message)),
        Some(PutFileRequest { message: None }) => {
            Err(FieldError::new("data", "must be set").into())
        }
    }
}

/// Takes a file in. True when it was there already.
async fn take(
    call: &Call,
    head: &PutHead,
    pieces: &mut Streaming<PutFileRequest>,
) -> Result<bool, Status> {
    let file = known(head.file);
    room(call, head.size).await?;
    let mut unfinished = match call.with(move |local| local.begin(file)).await? {
        Begun::New(unfinished) => unfinished,
        Begun::Exists(size) => return exists(call, head, size, pieces).await,
    };
    let mut taken = 0;
    while let Some(message) = next(pieces).await? {
        let data = data(message)?;
        taken += data.len() as u64;
        if taken > head.size {
            return Err(FieldError::new("data", "is more than `put.size`").into());
        }
        call.turn.pace(data.len()).await;
        unfinished = call
            .with(move |_| {
                unfinished.write(&data)?;
                Ok(unfinished)
            })
            .await?;
    }
    if taken != head.size {
        return Err(FieldError::new("data", "is less than `put.size`").into());
    }
    // It may have taken minutes: the tenant may live elsewhere by now.
    call.may()?;
    call.with(move |_| unfinished.finish()).await?;
    Ok(false)
}

fn data(message: put_file_request::Message) -> Result<bytes::Bytes, Status> {
    let put_file_request::Message::Data(data) = message else {
        return Err(FieldError::new("data", "must follow").into());
    };
    if data.len() > MAX_CHUNK_BYTES {
        let problem = format!("at most {MAX_CHUNK_BYTES} bytes at once");
        return Err(FieldError::new("data", problem).into());
    }
    Ok(data)
}

/// A name that is there has the same content. `config` has no name: its content is compared.
async fn exists(
    call: &Call,
    head: &PutHead,
    size: u64,
    pieces: &mut Streaming<PutFileRequest>,
) -> Result<bool, Status> {
    if head.file.kind != StoreFileKind::Config {
        // To its end, so that the answer arrives.
        let mut left = head.size;
        while let Some(message) = next(pieces).await? {
            let data = data(message)?;
            left = left
                .checked_sub(data.len() as u64)
                .ok_or_else(|| FieldError::new("data", "is more than `put.size`"))?;
            call.turn.pace(data.len()).await;
        }
        return Ok(true);
    }
    let another = || Status::already_exists("there is another");
    // Some hundred bytes; what claims to be more is another.
    if size != head.size || size > u64::from(PIECE) {
        return Err(another());
    }
    let mut said = Vec::new();
    while let Some(message) = next(pieces).await? {
        said.extend(data(message)?);
        if said.len() as u64 > size {
            return Err(another());
        }
    }
    let is = call
        .with(move |local| local.read(File::config(), size))
        .await?;
    if is == said { Ok(true) } else { Err(another()) }
}

async fn room(call: &Call, bytes: u64) -> Result<(), Status> {
    let place = call
        .shared
        .places
        .get(&call.of.destination)
        .cloned()
        .ok_or_else(refused)?;
    let has = call.turn.at_the_disk(move || place.has_room(bytes)).await?;
    match has {
        Ok(true) => Ok(()),
        Ok(false) => Err(full(&call.of)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(meaning(&call.of, &StoreError::Unreachable(error)))
        }
        Err(error) => Err(meaning(&call.of, &StoreError::Failed(error))),
    }
}
