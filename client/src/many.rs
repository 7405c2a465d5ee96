//! Many keys at once, pipelined.

use crate::client::Client;
use crate::error::Error;
use crate::operation::{Operation, Outcome};

/// Requests in flight.
const WINDOW: usize = 256;

impl Client {
    /// Stores many pairs; returns how many were stored. The first failure ends it: pairs before it are stored, some after it may be.
    ///
    /// # Errors
    /// The first pair's that failed.
    pub fn insert_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(&mut self, pairs: impl IntoIterator<Item = (K, V)>) -> Result<u64, Error> {
        let mut stored = 0;
        let mut failure = None;
        let mut pipeline = self.pipeline(WINDOW);
        let mut on_reply = |completion: crate::Completion<'_>| match completion.outcome {
            Outcome::Stored { .. } => stored += 1,
            Outcome::Failed(error) if failure.is_none() => failure = Some(error),
            _ => {}
        };
        for (key, value) in pairs {
            pipeline.submit(&Operation::insert(key.as_ref(), value.as_ref()), &mut on_reply)?;
        }
        pipeline.finish(&mut on_reply)?;
        drop(pipeline);
        failure.map_or(Ok(stored), Err)
    }

    /// Reads many keys; the results are in the order of the keys. It is no snapshot: each key is read for itself.
    ///
    /// # Errors
    /// The first key's that failed.
    pub fn get_many<K: AsRef<[u8]>>(&mut self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let mut values = Vec::new();
        let mut failure = None;
        let mut overtaken = Vec::new();
        let mut kept = Vec::new();
        let mut pipeline = self.pipeline(WINDOW);
        let mut on_reply = |completion: crate::Completion<'_>| match completion.outcome {
            Outcome::Value { bytes, .. } => values.push(Some(bytes.to_vec())),
            Outcome::NotFound => values.push(None),
            Outcome::Failed(Error::Overtaken) => {
                overtaken.push(values.len());
                values.push(None);
            }
            Outcome::Failed(error) => {
                values.push(None);
                failure.get_or_insert(error);
            }
            _ => values.push(None),
        };
        for key in keys {
            pipeline.submit(&Operation::Read { key: key.as_ref() }, &mut on_reply)?;
            kept.push(key);
        }
        pipeline.finish(&mut on_reply)?;
        drop(pipeline);
        if let Some(failure) = failure {
            return Err(failure);
        }
        for at in overtaken {
            values[at] = self.read(kept[at].as_ref())?;
        }
        Ok(values)
    }
}
