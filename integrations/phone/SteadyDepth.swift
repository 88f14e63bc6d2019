// Steady depth of a camera on iOS and macOS: a Core ML model, and the learned filter behind it in ONNX Runtime.
// The Swift package is microsoft/onnxruntime-swift-package-manager, its product "onnxruntime".
import CoreML
import Foundation
import OnnxRuntimeBindings

/// What `steadydepth export --to web` writes beside the filter, in web.json.
struct About: Decodable {
    struct Tensor: Decodable { let shape: [Int] }
    let height: Int, width: Int, claims: String, strength: Float
    let filterState: [String: Tensor]
    enum CodingKeys: String, CodingKey { case height, width, claims, strength, filterState = "filter_state" }
}

/// One stream of frames.
final class SteadyDepth {
    let about: About
    private let model: MLModel, filter: ORTSession
    private var state: [String: [Float]]?

    /// `model` is the compiled depth.mlpackage, `filter` filter.onnx, `about` web.json.
    init(model: URL, filter: URL, about: URL) throws {
        self.about = try JSONDecoder().decode(About.self, from: Data(contentsOf: about))
        self.model = try MLModel(contentsOf: model)
        self.filter = try ORTSession(env: ORTEnv(loggingLevel: .warning), modelPath: filter.path, sessionOptions: nil)
    }

    /// Forget what was seen: at a cut, after a pause.
    func reset() { state = nil }

    /// Depth of one frame, row after row. `frame` has the model's size; `rgb` are its pixels, 3 bytes each.
    func step(_ frame: CVPixelBuffer, rgb: Data) throws -> [Float] {
        let input = try MLDictionaryFeatureProvider(dictionary: ["image": MLFeatureValue(pixelBuffer: frame)])
        let found = try model.prediction(from: input).featureValue(for: "depth")!.multiArrayValue!
        return try smooth(rgb, (0..<found.count).map { found[$0].floatValue })
    }

    private func smooth(_ rgb: Data, _ depth: [Float]) throws -> [Float] {
        let before = state ?? begin(depth), size = [1, about.height, about.width]
        let pixels = try ORTValue(
            tensorData: NSMutableData(data: rgb), elementType: .uInt8, shape: (size + [3]).map { NSNumber(value: $0) })
        var inputs = ["image": pixels, "raw": try tensor(depth, size), "strength": try tensor([about.strength], [1])]
        for (name, one) in about.filterState { inputs["state_\(name)"] = try tensor(before[name]!, one.shape) }
        // The unit of a video is that of its first frame: it goes in and does not come out.
        let changing = about.filterState.keys.filter { $0 != "unit" }
        let names = Set(["depth"] + changing.map { "next_\($0)" })
        let outputs = try filter.run(withInputs: inputs, outputNames: names, runOptions: nil)
        var after = before
        for name in changing { after[name] = try floats(outputs["next_\(name)"]!) }
        state = after
        return try floats(outputs["depth"]!)
    }

    /// Zeros begin a video, but for the unit: what the filter takes for 0 and for 1.
    private func begin(_ depth: [Float]) -> [String: [Float]] {
        var zeros = about.filterState.mapValues { [Float](repeating: 0, count: $0.shape.reduce(1, *)) }
        zeros["unit"] = unit(of: depth)
        return zeros
    }

    private func unit(of depth: [Float]) -> [Float] {
        if about.claims == "metric" || about.claims == "scale" {
            let logs = depth.filter { $0 > 0 && $0.isFinite }.map { log(Double($0)) }
            return [0, logs.isEmpty ? 1 : Float(exp(logs.reduce(0, +) / Double(logs.count)))]
        }
        let sorted = depth.filter(\.isFinite).sorted()
        guard let first = sorted.first, let last = sorted.last else { return [0, 1] }
        let place = 0.01 * Double(sorted.count - 1), low = Int(place)
        let next = sorted[min(low + 1, sorted.count - 1)]
        let offset = sorted[low] + Float(place - Double(low)) * (next - sorted[low])
        let mean = Float(sorted.map(Double.init).reduce(0, +) / Double(sorted.count))
        return [offset, max(mean - offset, 1e-6 * max(-first, last, 0) + 1e-12)]
    }

    private func tensor(_ values: [Float], _ shape: [Int]) throws -> ORTValue {
        let data = values.withUnsafeBufferPointer { NSMutableData(data: Data(buffer: $0)) }
        return try ORTValue(tensorData: data, elementType: .float, shape: shape.map { NSNumber(value: $0) })
    }

    private func floats(_ value: ORTValue) throws -> [Float] {
        let data = try value.tensorData() as Data
        return data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }
}
