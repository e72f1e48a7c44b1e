//! What is generated: the golden model's own tokens, alone and among others, streamed or whole.
#![allow(clippy::unwrap_used)]

mod support;

use futures_util::future::join_all;
use serde_json::{Value, json};
use support::{Child, MODEL, cases, completion, ids};

const AS_IDS: fn(u32) -> Value = |top| json!({"logprobs": top, "return_tokens_as_token_ids": true});

#[tokio::test]
async fn golden_tokens_and_logprobs_come_out_alone_and_all_at_once() {
    let child = Child::ready().await;
    for case in cases() {
        let answer = child.complete(&case["prompt_ids"], 24, AS_IDS(5)).await;
        check_golden(&case, &answer);
        assert_eq!(answer["usage"]["prompt_tokens"], case["prompt_ids"].as_array().unwrap().len());
        assert_eq!(answer["usage"]["completion_tokens"], 24);
    }
    let cases = cases();
    let many = (0..40).map(|i| &cases[i % cases.len()]);
    let answers = join_all(many.clone().map(|case| child.complete(&case["prompt_ids"], 24, AS_IDS(5)))).await;
    many.zip(&answers).for_each(|(case, answer)| check_golden(case, answer));
    child.until_idle().await;
}

fn check_golden(case: &Value, answer: &Value) {
    let expected: Vec<u32> = serde_json::from_value(case["greedy_ids"].clone()).unwrap();
    let margins: Vec<f32> = serde_json::from_value(case["greedy_margins"].clone()).unwrap();
    let sure = margins.iter().position(|m| *m < 0.01).unwrap_or(expected.len());
    assert_eq!(ids(answer)[..sure], expected[..sure]);
    let logits: Vec<f64> = serde_json::from_value(case["last_logits"].clone()).unwrap();
    let norm = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
    for (token, logprob) in answer["choices"][0]["logprobs"]["top_logprobs"][0].as_object().unwrap() {
        let id: usize = token.strip_prefix("token_id:").unwrap().parse().unwrap();
        assert!((logprob.as_f64().unwrap() - (logits[id] - norm)).abs() < 4e-3, "{token}");
    }
}

#[tokio::test]
async fn rows_have_the_same_bits_alone_and_among_others() {
    let child = Child::ready().await;
    let cases = cases();
    let sampled = |i: usize| {
        let extra =
            json!({"temperature": 1.2, "top_p": 0.95, "seed": i, "logprobs": 3, "return_tokens_as_token_ids": true});
        child.complete(&cases[i % cases.len()]["prompt_ids"], 20, extra)
    };
    let together = join_all((0..24).map(sampled)).await;
    for (i, answer) in together.iter().enumerate() {
        assert_eq!(sampled(i).await["choices"], answer["choices"], "sequence {i}");
    }
}

#[tokio::test]
async fn seeds_reproduce_and_choices_differ() {
    let child = Child::ready().await;
    let prompt = &cases()[0]["prompt_ids"];
    let sample = |seed: i64| child.complete(prompt, 16, json!({"temperature": 1.5, "seed": seed, "n": 3}));
    let (one, same, other) = (sample(5).await, sample(5).await, sample(-6).await);
    assert_eq!(one["choices"], same["choices"]);
    assert_ne!(one["choices"][0]["text"], other["choices"][0]["text"]);
    assert_ne!(one["choices"][0]["text"], one["choices"][1]["text"]);
    assert_eq!(
        one["choices"].as_array().unwrap().iter().map(|c| c["index"].as_u64().unwrap()).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(one["usage"]["completion_tokens"], 48);
}

#[tokio::test]
async fn the_activators_seed_is_that_of_a_request_without_one() {
    let child = Child::ready().await;
    let body = |seed: Value| {
        let extra = json!({"temperature": 1.5, "seed": seed, "n": 2, "ignore_eos": false});
        completion(&cases()[0]["prompt_ids"], 16, extra)
    };
    let ask = async |header: &str, seed: Value| {
        let (_, answer) = child.post_with(("pilotlight-seed", header), "/v1/completions", &body(seed)).await;
        answer["choices"].clone()
    };
    let none = ask("18446744073709551615", Value::Null).await;
    assert_eq!(none, ask("18446744073709551615", Value::Null).await);
    assert_eq!(none, ask("7", json!(-1)).await, "the request's own wins");
    assert_ne!(none, ask("7", Value::Null).await);
    assert_ne!(ask("nonsense", Value::Null).await, ask("nonsense", Value::Null).await, "each has another");
}

#[tokio::test]
async fn a_prompts_choices_do_not_depend_on_its_place_in_the_list() {
    let child = Child::ready().await;
    let (a, b) = (&cases()[0]["prompt_ids"], &cases()[1]["prompt_ids"]);
    let extra = json!({"temperature": 1.5, "seed": 5, "n": 2});
    let texts = async |prompts: Value| {
        let answer = child.complete(&prompts, 12, extra.clone()).await;
        let choices = answer["choices"].as_array().unwrap();
        assert!(choices.iter().enumerate().all(|(i, choice)| choice["index"] == i));
        choices.iter().map(|choice| choice["text"].clone()).collect::<Vec<_>>()
    };
    let (ab, ba, alone) = (texts(json!([a, b])).await, texts(json!([b, a])).await, texts(json!(b)).await);
    assert_eq!((&ab[..2], &ab[2..]), (&ba[2..], &ba[..2]));
    assert_eq!(ab[2..], alone);
    assert_ne!(alone[0], alone[1]);
}

#[tokio::test]
async fn choices_of_one_prompt_share_its_prefill() {
    let child = Child::ready().await;
    let prompt: Vec<u32> = (0..200).map(|t| 2 + t * 31 % 700).collect();
    child.complete(&json!(prompt), 2, json!({"n": 8})).await;
    child.until_idle().await;
    // 200 tokens are six whole blocks of 32 and a rest.
    assert_eq!(child.stats().await.reused_tokens, 7 * 192);
}

#[tokio::test]
async fn several_prompts_of_one_request_are_answered_in_order() {
    let child = Child::ready().await;
    let cases = cases();
    let both = child.complete(&json!([cases[0]["prompt_ids"], cases[1]["prompt_ids"]]), 8, json!({})).await;
    for i in 0..2 {
        let alone = child.complete(&cases[i]["prompt_ids"], 8, json!({})).await;
        assert_eq!(both["choices"][i]["text"], alone["choices"][0]["text"]);
    }
}

#[tokio::test]
async fn a_stop_string_across_tokens_ends_the_text_before_it() {
    let child = Child::ready().await;
    let prompt = &cases()[0]["prompt_ids"];
    let answer = child.complete(prompt, 24, json!({"logprobs": 0})).await;
    let text: Vec<char> = answer["choices"][0]["text"].as_str().unwrap().chars().collect();
    let offsets: Vec<usize> = serde_json::from_value(answer["choices"][0]["logprobs"]["text_offset"].clone()).unwrap();
    // From the last character of one token to the first of the next.
    let cut = *offsets.iter().find(|&&o| o > 4 && o < text.len()).unwrap();
    let stop: String = text[cut - 1..=cut].iter().collect();
    let whole: String = text.iter().collect();
    let stopped = child.complete(prompt, 24, json!({"stop": [stop]})).await;
    assert_eq!(stopped["choices"][0]["text"].as_str().unwrap(), &whole[..whole.find(&stop).unwrap()]);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert!(stopped["usage"]["completion_tokens"].as_u64().unwrap() < 24);
    child.until_idle().await;
}

#[tokio::test]
async fn an_end_token_ends_a_generation_unless_it_is_ignored() {
    let child = Child::ready().await;
    let prompt = &cases()[0]["prompt_ids"];
    // The end token of this model is 1: make it certain.
    let bias = |ignore: bool| json!({"ignore_eos": ignore, "logit_bias": {"1": 100}, "logprobs": 0, "return_tokens_as_token_ids": true});
    let ended = child.complete(prompt, 5, bias(false)).await;
    assert_eq!(
        (&ended["choices"][0]["finish_reason"], &ended["usage"]["completion_tokens"]),
        (&json!("stop"), &json!(0))
    );
    let ignored = child.complete(prompt, 5, bias(true)).await;
    assert_eq!((ids(&ignored), &ignored["choices"][0]["finish_reason"]), (vec![1; 5], &json!("length")));
    assert_eq!(ignored["usage"]["completion_tokens"], 5);
    let form = json!({"ignore_eos": true, "guided_regex": "a{2}"});
    let formed = child.complete(prompt, 5, form).await;
    let choice = &formed["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("aa"), &json!("stop")), "a form ends all the same");
}

#[tokio::test]
async fn a_stream_says_the_same_as_a_whole_answer() {
    let child = Child::ready().await;
    for (i, case) in cases().iter().enumerate() {
        let extra = json!({"temperature": 1, "seed": i, "logprobs": 2});
        let whole = child.complete(&case["prompt_ids"], 40, extra.clone()).await;
        let mut body = completion(&case["prompt_ids"], 40, extra);
        body["stream"] = true.into();
        let events = child.stream("/v1/completions", &body).await;
        let text: String = events.iter().map(|e| e["choices"][0]["text"].as_str().unwrap()).collect();
        assert_eq!(text, whole["choices"][0]["text"].as_str().unwrap());
        for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            let streamed: Vec<Value> =
                events.iter().filter_map(|e| e["choices"][0]["logprobs"][list].as_array()).flatten().cloned().collect();
            assert_eq!(Value::from(streamed), whole["choices"][0]["logprobs"][list], "{list}");
        }
        let last = events.last().unwrap();
        assert_eq!(
            (&last["choices"][0]["finish_reason"], &last["timings"]["predicted_n"]),
            (&json!("length"), &json!(40))
        );
        assert!(
            events
                .iter()
                .rev()
                .skip(1)
                .all(|e| e["choices"][0]["finish_reason"].is_null() && e.get("timings").is_none())
        );
    }
}

#[tokio::test]
async fn a_chat_has_its_shapes_streamed_and_whole() {
    let child = Child::ready().await;
    let mut body = json!({"model": MODEL, "messages": [{"role": "user", "content": "héllo"}], "max_tokens": 12, "temperature": 0,
        "logprobs": true, "top_logprobs": 2, "ignore_eos": true});
    let (status, whole) = child.post("/v1/chat/completions", &body).await;
    assert_eq!((status.as_u16(), &whole["object"]), (200, &json!("chat.completion")));
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["role"], "assistant");
    let logprobs = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(logprobs.len(), 12);
    assert!(logprobs.iter().all(|l| l["top_logprobs"].as_array().unwrap().len() == 2 && l["bytes"].is_array()));

    body.as_object_mut()
        .unwrap()
        .extend(json!({"stream": true, "stream_options": {"include_usage": true}}).as_object().unwrap().clone());
    let events = child.stream("/v1/chat/completions", &body).await;
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, message["content"].as_str().unwrap());
    let usage = events.last().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]), (&json!([]), &whole["usage"]));
    assert_eq!(usage["timings"]["cold"], false);
    assert!(events.iter().all(|e| e["id"] == events[0]["id"] && e["object"] == "chat.completion.chunk"));
}

#[tokio::test]
async fn tokenizing_goes_there_and_back_and_renders_chats() {
    let child = Child::ready().await;
    let (_, plain) = child
        .post("/tokenize", &json!({"prompt": "héllo 🙂", "add_special_tokens": false, "return_token_strs": true}))
        .await;
    assert_eq!(
        (&plain["count"], &plain["max_model_len"]),
        (&json!(plain["tokens"].as_array().unwrap().len()), &json!(512))
    );
    assert_eq!(plain["token_strs"].as_array().unwrap().len(), plain["tokens"].as_array().unwrap().len());
    let (_, back) = child.post("/detokenize", &json!({"tokens": plain["tokens"]})).await;
    assert_eq!(back["prompt"], "héllo 🙂");
    let messages = json!([{"role": "user", "content": "hi"}]);
    let (_, chat) = child.post("/tokenize", &json!({"messages": messages})).await;
    let (_, text) = child.post("/detokenize", &json!({"tokens": chat["tokens"]})).await;
    assert_eq!(text["prompt"], "<|bos|><|user|>hi<|assistant|>");
}
