//! The coordinator's folder in a bucket.
//!
//! A file is put in one request, so it is there whole or not at all, and what replaces one does so at once. Not here: the bucket.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Seek as _, Write as _},
};

use isyone_bucket::{Bucket, BucketError};

use super::{
    folder::FOLDER,
    format::{Part, Series},
};

#[derive(Debug, Clone)]
pub(super) struct InBucket(Bucket);

impl InBucket {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self(bucket)
    }

    pub(super) fn place(&self) -> String {
        format!("{}/{FOLDER}", self.0.place())
    }

    pub(super) fn check(&self) -> io::Result<()> {
        Ok(self.0.check()?)
    }

    pub(super) fn put(
        &self,
        series: Series,
        part: Part,
        write: impl FnOnce(&mut io::BufWriter<&mut fs::File>) -> io::Result<()>,
    ) -> io::Result<u64> {
        // It has no name, and everything in it is sealed.
        let mut file = tempfile::tempfile()?;
        let mut out = io::BufWriter::new(&mut file);
        write(&mut out)?;
        out.flush()?;
        drop(out);
        file.rewind()?;
        // Whole in memory: of 1,000 tenants it is less than 1 MB.
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let size = content.len() as u64;
        self.0.put(&key(series, part), content)?;
        Ok(size)
    }

    pub(super) fn open(&self, series: Series, part: Part) -> io::Result<fs::File> {
        let mut file = tempfile::tempfile()?;
        self.0.fetch(&key(series, part), &mut file)?;
        file.rewind()?;
        Ok(file)
    }

    pub(super) fn size(&self, part: Part) -> io::Result<u64> {
        Ok(self.0.size(&key(Series(0), part))?)
    }

    pub(super) fn series(&self) -> io::Result<Vec<Series>> {
        let listed = self.0.list(&format!("{FOLDER}/"))?;
        let mut found: Vec<Series> = { listed.iter() }
            .filter_map(|object| object.key.split('/').nth(1)?.parse().ok())
            .collect();
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    pub(super) fn parts(&self, series: Series) -> io::Result<BTreeMap<Part, u64>> {
        let listed = self.0.list(&format!("{FOLDER}/{series}/"))?;
        let part = |key: &str| Part::of_series(key.rsplit('/').next()?);
        let parts = listed.iter();
        Ok(parts
            .filter_map(|object| Some((part(&object.key)?, object.bytes)))
            .collect())
    }

    pub(super) fn remove(&self, series: Series) -> io::Result<()> {
        // Without its full copy it is none.
        self.0.remove(&key(series, Part::Base))?;
        let rest = self.0.list(&format!("{FOLDER}/{series}/"))?;
        let removed: Result<(), BucketError> = rest
            .iter()
            .try_for_each(|object| self.0.remove(&object.key));
        Ok(removed?)
    }
}

fn key(series: Series, part: Part) -> String {
    match part {
        Part::Base | Part::Batch(_) => format!("{FOLDER}/{series}/{part}"),
        Part::Keys | Part::Configuration => format!("{FOLDER}/{part}"),
    }
}
