// Checks with kafkajs: its producer and its admin calls; it can consume only as a group member.
// Protocol of the output: ci/src/clients/mod.rs.

const fs = require('node:fs')
const assert = require('node:assert')
const { Kafka, CompressionTypes, logLevel } = require('kafkajs')

const { DEJAQ_BROKER, DEJAQ_RUN, DEJAQ_FILE, DEJAQ_ONLY = '', DEJAQ_GROUPS } = process.env
let behind = process.env.DEJAQ_AFTER ?? ''
const kafka = new Kafka({ brokers: [DEJAQ_BROKER], logLevel: logLevel.NOTHING, retry: { retries: 3 } })
const admin = kafka.admin()
const lines = fs.readFileSync(DEJAQ_FILE, 'utf8').replace(/\n$/, '').split('\n')

async function check(name, body) {
  if (behind) {
    if (name === behind) behind = ''
    return
  }
  if (!name.includes(DEJAQ_ONLY)) return
  console.log(`start ${name}`)
  try {
    await body()
    console.log(`ok ${name}`)
  } catch (error) {
    console.log(`not ok ${name}: ${String(error).replaceAll('\n', ' ').slice(0, 400)}`)
  }
}

async function topic(name, numPartitions = 1) {
  const full = `${DEJAQ_RUN}-${name}`
  await admin.createTopics({ topics: [{ topic: full, numPartitions, replicationFactor: 1 }], waitForLeaders: true })
  return full
}

async function produce(name, values, options = {}, config = {}) {
  const producer = kafka.producer(config)
  await producer.connect()
  try {
    return await producer.send({ topic: name, messages: values.map(value => ({ value, partition: 0 })), ...options })
  } finally {
    await producer.disconnect()
  }
}

async function ends(name) {
  return (await admin.fetchTopicOffsets(name)).map(({ low, high }) => `${low}..${high}`).join(' ')
}

async function file(codec, compression) {
  const name = await topic(codec)
  for (let at = 0; at < lines.length; at += 1000) await produce(name, lines.slice(at, at + 1000), { compression })
  assert.equal(await ends(name), `0..${lines.length}`)
}

async function main() {
  await admin.connect()
  await check('create-and-list', async () => {
    const name = await topic('made', 3)
    assert((await admin.listTopics()).includes(name))
    const { topics } = await admin.fetchTopicMetadata({ topics: [name] })
    assert.equal(topics[0].partitions.length, 3)
    assert.equal(await admin.createTopics({ topics: [{ topic: name }] }), false)
    await admin.createPartitions({ topicPartitions: [{ topic: name, count: 5 }] })
    assert.equal((await admin.fetchTopicMetadata({ topics: [name] })).topics[0].partitions.length, 5)
  })
  await check('produce-none', () => file('none', CompressionTypes.None))
  await check('produce-gzip', () => file('gzip', CompressionTypes.GZIP))
  for (const acks of [0, 1, -1]) {
    await check(`acks-${acks}`, async () => {
      const name = await topic(`acks${acks}`)
      await produce(name, lines.slice(0, 100), { acks })
      for (let i = 0; i < 50 && (await ends(name)) !== '0..100'; i++) await new Promise(done => setTimeout(done, 100))
      assert.equal(await ends(name), '0..100')
    })
  }
  await check('idempotent', async () => {
    const name = await topic('idem')
    const [{ baseOffset }] = await produce(name, ['a', 'b'], {}, { idempotent: true, maxInFlightRequests: 1 })
    assert.equal(baseOffset, '0')
  })
  await check('offsets-by-time', async () => {
    const name = await topic('time')
    const base = Date.now() - 3_600_000
    for (let n = 0; n < 5; n++) await produce(name, [], { messages: [{ value: `${n}`, timestamp: `${base + n * 1000}` }] })
    assert.equal((await admin.fetchTopicOffsetsByTimestamp(name, base + 2500))[0].offset, '3')
  })
  await check('configs', async () => {
    const name = await topic('configs')
    const resource = { type: 2, name }
    const read = async () => {
      const { resources } = await admin.describeConfigs({ includeSynonyms: true, resources: [resource] })
      return resources[0].configEntries.find(entry => entry.configName === 'retention.ms').configValue
    }
    const configEntries = [{ name: 'retention.ms', value: '123456789' }]
    await admin.alterConfigs({ validateOnly: false, resources: [{ ...resource, configEntries }] })
    for (let i = 0; i < 50 && (await read()) !== '123456789'; i++) await new Promise(done => setTimeout(done, 100))
    assert.equal(await read(), '123456789')
  })
  await check('delete-records', async () => {
    const name = await topic('cut')
    await produce(name, lines.slice(0, 100))
    // kafkajs knows the leader only of topics that it has asked about.
    assert.equal(await ends(name), '0..100')
    await admin.deleteTopicRecords({ topic: name, partitions: [{ partition: 0, offset: '60' }] })
    assert.equal(await ends(name), '60..100')
  })
  await check('delete-topics', async () => {
    const name = await topic('doomed')
    await admin.deleteTopics({ topics: [name] })
    for (let i = 0; i < 50 && (await admin.listTopics()).includes(name); i++) await new Promise(done => setTimeout(done, 100))
    assert(!(await admin.listTopics()).includes(name))
  })
  if (DEJAQ_GROUPS === '1') {
    await check('group-consume', async () => {
      const name = await topic('group')
      for (let at = 0; at < lines.length; at += 1000) await produce(name, lines.slice(at, at + 1000))
      const consumer = kafka.consumer({ groupId: `${DEJAQ_RUN}-g` })
      await consumer.connect()
      await consumer.subscribe({ topics: [name], fromBeginning: true })
      const got = []
      await new Promise((done, fail) => {
        setTimeout(() => fail(new Error(`${got.length} of ${lines.length} records came`)), 40000).unref()
        const eachMessage = async ({ message }) => { if (got.push(message.value.toString()) === lines.length) done() }
        consumer.run({ eachMessage })
      })
      await consumer.disconnect()
      assert.deepEqual(got, lines)
    })
  }
  await admin.disconnect()
}

main().then(() => process.exit(0))
