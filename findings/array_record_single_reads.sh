#!/usr/bin/env bash
# array_record 0.8.6: reading one record takes time in proportion to all records of its file.
#
# One would guess that an ArrayRecord file, made for random access, gives any record in constant time. Its
# reader has read([i, j, ...]) for a list of records and read(start, stop) for a range. read([i]) makes a
# list for each chunk of the file, and each record is a chunk with group_size:1, as Grain wants it.
# read(i, i + 1) returns the same record in constant time. ArrayRecordDataSource, and so Grain and TFDS,
# reads one record by read([i]).
# Hurt: who shuffles a data set of few large files: in a file of half a million records a single read
# takes hundreds of times as long as a range of one. The batched __getitems__ shares the cost among the
# records of a batch.
# Source: array_record/python/array_record_data_source.py, ArrayRecordDataSource.__getitem__, and
# cpp/array_record_reader.cc, ParallelReadRecordsWithIndices (`per_chunk_indices`), of array_record 0.8.6.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check array_record==0.8.6
"$folder/venv/bin/python" - "$folder" <<'END'
import random
import sys
import time

from array_record.python import array_record_data_source, array_record_module

READS = 200


def seconds(read, count):
    """Returns the seconds of a read, the best of three averages."""
    draws = random.Random(0)
    averages = []
    for _ in range(3):
        begin = time.perf_counter()
        for _ in range(READS):
            index = draws.randrange(count)
            assert read(index) == str(index).encode()
        averages.append((time.perf_counter() - begin) / READS)
    return min(averages)


times = {}
for count in (5_000, 500_000):
    file = f'{sys.argv[1]}/{count}'
    writer = array_record_module.ArrayRecordWriter(file, 'group_size:1')
    for index in range(count):
        writer.write(str(index).encode())
    writer.close()
    options = 'readahead_buffer_size:0,max_parallelism:0'  # as documented for random access
    reader = array_record_module.ArrayRecordReader(file, options)
    source = array_record_data_source.ArrayRecordDataSource(file)
    for name, read in {
        'read([i])': lambda i: reader.read([i])[0],
        'read(i, i + 1)': lambda i: reader.read(i, i + 1)[0],
        'ArrayRecordDataSource': lambda i: source[i],
    }.items():
        times[name, count] = seconds(read, count)
        print(f'{count:>7,} records, {name:<21} {1e6 * times[name, count]:9.1f} us')
for name, grows in {'read([i])': True, 'read(i, i + 1)': False, 'ArrayRecordDataSource': True}.items():
    ratio = times[name, 500_000] / times[name, 5_000]
    print(f'{name}: {ratio:.1f} times as long in a file with 100 times the records')
    if (ratio > 10) != grows:
        sys.exit('the behavior has changed')
END
