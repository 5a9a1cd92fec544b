// A session of npm's ksqldb-js: statements and pull queries over HTTP/1.1, push queries and rows over HTTP/2, where it takes each
// piece of an answer for one row. Its answers are printed as one JSON object.
"use strict";

const Ksqldb = require("ksqldb-js");

async function main(port, name) {
    const client = new Ksqldb({ ksqldbURL: `http://127.0.0.1:${port}` });
    const found = { created: (await client.createStream(name, ["word VARCHAR", "n INT"], name, "json", 1)).status };
    const counted = await client.ksql(
        `SET 'auto.offset.reset' = 'earliest'; CREATE TABLE ${name}_T AS SELECT word, COUNT(*) AS c FROM ${name} GROUP BY word;`,
    );
    found.queryId = counted.commandStatus.queryId;
    found.wrong = await client.pull("SELECT * FROM;").catch((error) => error.message);

    const rows = [];
    let arrived;
    const all = new Promise((resolve) => (arrived = resolve));
    const pushId = await client.push(`SELECT word, n FROM ${name} EMIT CHANGES LIMIT 4;`, (piece) => {
        rows.push(JSON.parse(piece));
        if (rows.length === 5) arrived();
    });
    found.inserted = await client.insertStream(name, [
        { word: "tree", n: 1 },
        { word: "wind", n: 2 },
        { word: "tree", n: 3 },
        { word: "sea", n: 4 },
    ]);
    await all;
    found.sameId = rows[0].queryId === pushId;
    found.rows = rows.slice(1);
    do {
        found.pulled = await client.pull(`SELECT word, c FROM ${name}_T WHERE word = 'tree';`);
    } while (!(found.pulled.length === 2 && found.pulled[1][1] === 2));
    found.streams = await client.ksql("LIST STREAMS;");
    found.terminated = await client.terminate(found.queryId);
    found.info = (await client.inspectServerInfo()).data;
    found.health = (await client.inspectServerHealth()).data;
    console.log(JSON.stringify(found));
    process.exit(0);
}

main(...process.argv.slice(2)).catch((error) => {
    console.error(error);
    process.exit(1);
});
