"""The root of this package's exceptions.

::

    KafkaKitError
    ├── KafkaClientError            admin: the brokers refused, or could not be reached
    │   ├── TopicExistsError
    │   ├── UnknownTopicError
    │   └── HungClientError         a client doesn't close
    ├── SecurityError               security: a client can't log in with what the settings say
    ├── BatchConsumerError          batch_consumer
    ├── TopicError                  topic_reader: a topic can't be read
    ├── RegistryError               registry: the schema registry refused, or could not be reached
    │   ├── NotRegisteredError
    │   ├── IncompatibleSchemaError
    │   └── CompatibilityNotKeptError  the registry has another level than it said
    ├── CodecError                  avro_codec: values that don't fit their schema
    └── SchemaError                 avro_codec: messages of a schema id can't be decoded
        ├── UnknownSchemaError      no schema has this id (a LookupError)
        ├── UnusableSchemaError     it is not an Avro schema that can be read
        └── SchemaUnavailableError  writer_schemas: the registry gives no answer about it
"""

from __future__ import annotations


class KafkaKitError(Exception):
    """Something between this package and Kafka or the schema registry went wrong; the message says what, and the remedy."""
