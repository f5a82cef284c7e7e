//! One row for each request of the window, in our own definitions, as a Parquet file of one row
//! group. Times are seconds as doubles; null where there is none.
//!
//! Invariant: the columns are those of the CSV but for their types. What it does not do: compress;
//! readers compress better when they write again.

use std::sync::Arc;

use parquet::basic::{ConvertedType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::Result;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use crate::record::RequestRecord;

/// A column: its name and how it is taken from a request.
enum Column {
    Integer(&'static str, fn(&RequestRecord) -> Option<u64>),
    Seconds(&'static str, fn(&RequestRecord) -> Option<u64>),
    Text(&'static str, fn(&RequestRecord) -> Option<String>),
}

const COLUMNS: [Column; 20] = [
    Column::Integer("id", |record| Some(record.id)),
    Column::Integer("session", |record| Some(record.session)),
    Column::Integer("turn", |record| Some(u64::from(record.turn))),
    Column::Text("class", |record| Some(record.class.clone())),
    Column::Text("outcome", |record| {
        Some(super::outcome_name(record.outcome))
    }),
    Column::Seconds("intended_s", |record| Some(record.intended_ns)),
    Column::Seconds("sent_s", |record| record.sent_ns),
    Column::Seconds("end_s", |record| record.end_ns),
    Column::Integer("input_tokens", |record| Some(record.input_tokens)),
    Column::Integer("cached_input_tokens", |record| record.cached_input_tokens),
    Column::Integer("output_tokens", |record| Some(record.output_tokens)),
    Column::Integer("planned_output_tokens", |record| {
        Some(record.planned_output_tokens)
    }),
    Column::Seconds("ttft_s", RequestRecord::ttft_ns),
    Column::Seconds("ttft_from_send_s", RequestRecord::ttft_from_send_ns),
    Column::Seconds("tpot_s", RequestRecord::tpot_ns),
    Column::Seconds("e2e_s", RequestRecord::e2e_ns),
    Column::Seconds("send_lag_s", RequestRecord::send_lag_ns),
    Column::Seconds("queue_s", RequestRecord::queue_ns),
    Column::Integer("chunks", |record| Some(record.chunk_ns.len() as u64)),
    Column::Text("error", |record| record.error.clone()),
];

impl Column {
    fn field(&self) -> Result<Type> {
        let (name, physical, converted) = match self {
            Self::Integer(name, _) => (name, Physical::INT64, ConvertedType::NONE),
            Self::Seconds(name, _) => (name, Physical::DOUBLE, ConvertedType::NONE),
            Self::Text(name, _) => (name, Physical::BYTE_ARRAY, ConvertedType::UTF8),
        };
        Type::primitive_type_builder(name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_converted_type(converted)
            .build()
    }
}

pub(super) fn table(records: &[&RequestRecord]) -> Vec<u8> {
    write(records).expect("rows of a fixed schema can be written to memory")
}

fn write(records: &[&RequestRecord]) -> Result<Vec<u8>> {
    let fields: Vec<_> = COLUMNS
        .iter()
        .map(|column| column.field().map(Arc::new))
        .collect::<Result<_>>()?;
    let schema = Type::group_type_builder("request")
        .with_fields(fields)
        .build()?;
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), properties)?;
    let mut group = writer.next_row_group()?;
    for column in &COLUMNS {
        let Some(mut place) = group.next_column()? else {
            break;
        };
        // A value's level is 1, a missing one's 0.
        match column {
            Column::Integer(_, take) => {
                let (values, levels) = split(records, |record| take(record).map(integer));
                place
                    .typed::<Int64Type>()
                    .write_batch(&values, Some(&levels), None)?;
            }
            Column::Seconds(_, take) => {
                let seconds = |record: &RequestRecord| take(record).map(|ns| ns as f64 / 1e9);
                let (values, levels) = split(records, seconds);
                place
                    .typed::<DoubleType>()
                    .write_batch(&values, Some(&levels), None)?;
            }
            Column::Text(_, take) => {
                let text =
                    |record: &RequestRecord| Some(ByteArray::from(take(record)?.into_bytes()));
                let (values, levels) = split(records, text);
                place
                    .typed::<ByteArrayType>()
                    .write_batch(&values, Some(&levels), None)?;
            }
        }
        place.close()?;
    }
    group.close()?;
    writer.into_inner()
}

fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn split<T>(
    records: &[&RequestRecord],
    value: impl Fn(&RequestRecord) -> Option<T>,
) -> (Vec<T>, Vec<i16>) {
    let values: Vec<Option<T>> = records.iter().map(|record| value(record)).collect();
    let levels = values
        .iter()
        .map(|value| i16::from(value.is_some()))
        .collect();
    (values.into_iter().flatten().collect(), levels)
}
