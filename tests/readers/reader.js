// Reads FILE COUNT times with readFileSync, which trusts fstat; prints what was wrong.
const fs = require('fs');
const [path, count] = [process.argv[2], Number(process.argv[3])];
const good = ['a'.repeat(8), 'b'.repeat(100), 'c'.repeat(3000)];
let bad = 0;
for (let i = 0; i < count; i++) {
    const value = fs.readFileSync(path, 'latin1');
    if (!good.includes(value) && !bad++) console.error(value.length, value.slice(0, 20));
}
console.log(`${count} read, ${bad} wrong`);
