// A Llama in plain Rust: reads a GGUF file, decodes its weights to f32 as it goes, computes in f32, and records what it
// computes through paritrace's C functions. It is an engine under test: --mistake makes it wrong in a known way.
//
//   rustc -O main.rs -L WHERE/PARITRACE/IS/lib -l paritrace -o rust_llama
//   PARITRACE_DIR=trace ./rust_llama MODEL.gguf --tokens 0,15,27 --decode 2
//   PARITRACE_DIR=wrong ./rust_llama MODEL.gguf --tokens 0,15,27 --mistake rope.half_split --mistake norm.eps@3
mod gguf;
mod mistakes;
mod model;
mod ops;
#[path = "../rust_common/paritrace.rs"]
mod trace;

use mistakes::Mistakes;

const USAGE: &str = "usage: rust_llama MODEL.gguf --tokens 1,2,3 [--decode N] [--mistake ID[@LAYER]]...
       rust_llama --list-mistakes";

struct Arguments {
    model: String,
    tokens: Vec<i32>,
    decode: usize,
    mistakes: Mistakes,
}

fn parse(mut words: std::env::Args) -> Result<Arguments, String> {
    let mut parsed = Arguments { model: String::new(), tokens: Vec::new(), decode: 0, mistakes: Mistakes::default() };
    words.next();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{} wants a value", word));
        match word.as_str() {
            "--tokens" => {
                for id in value()?.split(',') {
                    parsed.tokens.push(id.trim().parse().map_err(|_| format!("--tokens: expected a number, found \"{}\"", id))?);
                }
            }
            "--decode" => parsed.decode = value()?.parse().map_err(|_| "--decode wants a number".to_string())?,
            "--mistake" => parsed.mistakes.add(&value()?)?,
            _ if parsed.model.is_empty() && !word.starts_with('-') => parsed.model = word,
            _ => return Err(format!("unknown argument \"{}\"", word)),
        }
    }
    if parsed.model.is_empty() || parsed.tokens.is_empty() {
        return Err(USAGE.to_string());
    }
    Ok(parsed)
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let file = gguf::File::open(&arguments.model)?;
    let mut llama = model::Llama::new(&file, &arguments.mistakes)?;
    let _trace = trace::Trace::open("rust-llama", &arguments.model, "llama")?;
    let mut tokens = arguments.tokens.clone();
    for step in 0..=arguments.decode {
        let logits = llama.forward(&tokens)?;
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let best: Vec<String> = order.iter().take(5).map(|&id| format!("{:?} ({}) {:.3}", file.piece(id), id, logits[id])).collect();
        println!("step {}: {}", step, best.join(", "));
        tokens = vec![order[0] as i32];
    }
    Ok(())
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("--list-mistakes") {
        mistakes::KNOWN.iter().for_each(|id| println!("{}", id));
        return;
    }
    let done = parse(std::env::args()).and_then(|arguments| run(&arguments));
    if let Err(message) = done {
        eprintln!("rust_llama: {}", message);
        std::process::exit(2);
    }
}
